# SPDX-License-Identifier: Apache-2.0
"""Euler-Maruyama on the reverse stochastic differential equation, as SiT samples."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax

from jdit.denoise import Denoise
from jdit.processes import Gaussian
from jdit.solvers.base import Interval, State, normal
from jdit.typing import Array, Float, Memory


@runtime_checkable
class Diffusion(Protocol):
    """w(t): how much noise is put in and taken out again; any w >= 0 is right."""

    def __call__(
        self, process: Gaussian, time: Float[Array, ""]
    ) -> Float[Array, ""]: ...


@dataclass(frozen=True)
class Constant:
    """`w = norm`."""

    norm: float = 1.0

    def __call__(self, process: Gaussian, time: Array) -> Array:
        return self.norm * jnp.ones_like(time)


@dataclass(frozen=True)
class SigmaDiffusion:
    """`w = norm * sigma(t)`: SiT's choice, least noise where the data is near."""

    norm: float = 1.0

    def __call__(self, process: Gaussian, time: Array) -> Array:
        return self.norm * process.path(time).sigma


@dataclass(frozen=True)
class LinearDiffusion:
    """`w = norm * t`."""

    norm: float = 1.0

    def __call__(self, process: Gaussian, time: Array) -> Array:
        return self.norm * time


@dataclass(frozen=True)
class SBDM:
    """`w = norm (sigma sigma' - alpha' / alpha sigma^2)`: the forward process's own.

    On a variance-preserving path that is beta / 2, the SDE of Song et al. (2021). Where
    alpha is 0 at time 1 it has no finite value: there it is taken at time `latest`, the
    time at which SiT starts.
    """

    norm: float = 1.0
    latest: float = 0.999

    def __call__(self, process: Gaussian, time: Array) -> Array:
        at = process.path(jnp.minimum(time, self.latest))
        ratio = at.d_alpha / at.alpha
        return self.norm * at.sigma * (at.d_sigma - ratio * at.sigma)


@dataclass(frozen=True)
class Decreasing:
    """`w = (1 - norm cos(pi t))^2 / 4`: falls as the data comes near."""

    norm: float = 1.0

    def __call__(self, process: Gaussian, time: Array) -> Array:
        return jnp.square(1 - self.norm * jnp.cos(jnp.pi * time)) / 4


@dataclass(frozen=True)
class IncreasingDecreasing:
    """`w = norm sin(pi t)^2`: none at either end."""

    norm: float = 1.0

    def __call__(self, process: Gaussian, time: Array) -> Array:
        return self.norm * jnp.square(jnp.sin(jnp.pi * time))


@dataclass(frozen=True)
class EulerMaruyama:
    """`x - dt (velocity - w score) + sqrt(2 w dt) z`, with dt the time gone down.

    The reverse SDE of any Gaussian path, whose marginals do not depend on w (SiT, Ma et
    al., 2024, section 2, whose w is twice this one, as in its code). SiT's
    sampler is this on `Uniform(last=0.04)`.

    diffusion: w; last: how time 0 is reached without adding noise. "mean" is the step
    above without z, "euler" the step of the ODE, "tweedie" the predicted x_0.
    """

    diffusion: Diffusion = SigmaDiffusion()
    last: Literal["mean", "euler", "tweedie"] = "mean"

    evaluations = 1

    def __post_init__(self) -> None:
        if self.last not in ("mean", "euler", "tweedie"):
            raise ValueError(
                f"last is {self.last!r}, but it must be 'mean', 'euler' or 'tweedie'"
            )

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
        time, gone = interval.time, interval.time - interval.next_time
        prediction, memory = denoise(x_t, time, memory, interval.index)
        velocity = process.express(prediction, time, to="velocity")
        score = process.express(prediction, time, to="score")
        w = self.diffusion(process, time)
        euler = x_t - gone * velocity
        mean = euler + gone * w * score
        final = {"mean": mean, "euler": euler, "tweedie": prediction.x_0}[self.last]

        def noised() -> Array:
            return mean + jnp.sqrt(2 * w * gone) * normal(interval.keys, x_t)

        return lax.cond(interval.last, lambda: final, noised), state, memory
