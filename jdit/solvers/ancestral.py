# SPDX-License-Identifier: Apache-2.0
"""Solvers that go through x_0: DDIM, and DDPM's ancestral sampling."""

from dataclasses import dataclass

import jax.numpy as jnp

from jdit.denoise import Denoise
from jdit.processes import (
    FixedSmall,
    Gaussian,
    Prediction,
    Variance,
    posterior,
    transition,
)
from jdit.solvers.base import Interval, State, normal
from jdit.typing import Array, Memory


@dataclass(frozen=True)
class DDIM:
    """`alpha_s x_0 + sqrt(sigma_s^2 - v) noise + sqrt(v) z`, from time t to s.

    v is `eta^2` times the variance of the posterior of x_s given x_t and x_0; eta 0 is
    deterministic and of first order, eta 1 is DDPM with the small variance (Song et
    al., 2021, equations 12 and 16, for any Gaussian path).

    eta: in [0, 1]. clip: bound of |x_0|, or None; the noise is then that of the clipped
    x_0, as in guided-diffusion.
    """

    eta: float = 0.0
    clip: float | None = None

    evaluations = 1

    def __post_init__(self) -> None:
        if isinstance(self.eta, (int, float)) and not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}, but it must lie in [0, 1]")
        _check_clip(self.clip)

    def init(self, x_t: Array) -> State:
        return ()

    def step(
        self,
        denoise: Denoise,
        process: Gaussian,
        x_t: Array,
        interval: Interval,
        state: State,
        memory: Memory,
    ) -> tuple[Array, State, Memory]:
        prediction, memory = denoise(x_t, interval.time, memory, interval.index)
        prediction = _clipped(prediction, process, x_t, interval.time, self.clip)
        there = process.path(interval.next_time)
        if isinstance(self.eta, (int, float)) and self.eta == 0:
            x = there.alpha * prediction.x_0 + there.sigma * prediction.noise
            return x, state, memory
        step = transition(process.path, interval.time, interval.next_time)
        share = step.variance / jnp.square(process.path(interval.time).sigma)
        variance = jnp.square(self.eta) * jnp.minimum(share, 1)
        x = there.alpha * prediction.x_0
        x += there.sigma * jnp.sqrt(1 - variance) * prediction.noise
        x += there.sigma * jnp.sqrt(variance) * normal(interval.keys, x_t)
        return x, state, memory


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling: a draw from `q(x_s | x_t, x_0)` with x_0 as predicted.

    The mean is the posterior's (Ho et al., 2020, equation 7, for any Gaussian path);
    the last step adds no noise. On the times of `Respaced` it is the respaced sampler
    of Improved DDPM and DiT: `DDPM(LearnedRange())` in 250 of 1,000 steps.

    variance: `FixedSmall()`, `FixedLarge()` or `LearnedRange()` of `jdit.processes`.
    clip: bound of |x_0|, or None (DiT's choice, whose latents have no bounds).
    """

    variance: Variance = FixedSmall()
    clip: float | None = None

    evaluations = 1

    def __post_init__(self) -> None:
        _check_clip(self.clip)

    def init(self, x_t: Array) -> State:
        return ()

    def step(
        self,
        denoise: Denoise,
        process: Gaussian,
        x_t: Array,
        interval: Interval,
        state: State,
        memory: Memory,
    ) -> tuple[Array, State, Memory]:
        prediction, memory = denoise(x_t, interval.time, memory, interval.index)
        prediction = _clipped(prediction, process, x_t, interval.time, self.clip)
        reverse = posterior(process.path, interval.time, interval.next_time)
        mean = reverse.coef_x0 * prediction.x_0 + reverse.coef_xt * x_t
        scale = jnp.exp(self.variance(reverse, prediction) / 2)
        scale = jnp.where(interval.next_time > 0, scale, 0)
        return mean + scale * normal(interval.keys, x_t), state, memory


def _clipped(
    prediction: Prediction,
    process: Gaussian,
    x_t: Array,
    time: Array,
    clip: float | None,
) -> Prediction:
    if clip is None:
        return prediction
    x_0 = jnp.clip(prediction.x_0, -clip, clip)
    solved = process.solve(x_0, x_t, time, source="x_0")
    return prediction._replace(x_0=x_0, noise=solved.noise)


def _check_clip(clip: float | None) -> None:
    if clip is not None and clip <= 0:
        raise ValueError(f"clip is {clip}, but it must be above 0, or None")
