# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++: exponential multistep solvers of the equation of x_0."""

from dataclasses import dataclass

import jax.numpy as jnp

from jdit.denoise import Denoise
from jdit.processes import Gaussian
from jdit.solvers.base import Ends, Interval, State, ends, normal
from jdit.typing import Array, Memory


@dataclass(frozen=True)
class DPMSolverPP2M:
    """DPM-Solver++ (2M): second order with one evaluation a step, deterministic.

    With h the rise of lambda = log(alpha / sigma) in this step and h' in the last,

        D = x_0 + h / (2 h') (x_0 - x_0')
        x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) D

    (Lu et al., 2022b, algorithm 2). The first step and the one to time 0 are of first
    order, `D = x_0`: there is no history before, and no finite h at the end.
    """

    evaluations = 1

    def init(self, x_t: Array) -> State:
        return _history(x_t)

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
        at = ends(process, interval)
        x_0 = _extrapolate(prediction.x_0, at, interval, state)
        x = at.there.sigma / at.here.sigma * x_t
        x -= at.there.alpha * jnp.expm1(-at.rise) * x_0
        return x, (prediction.x_0, at.rise), memory


@dataclass(frozen=True)
class DPMSolverPP2MSDE:
    """SDE-DPM-Solver++ (2M): the stochastic sibling of `DPMSolverPP2M`.

        x_s = sigma_s / sigma_t exp(-h) x_t + alpha_s (1 - exp(-2h)) D
              + sigma_s sqrt(1 - exp(-2h)) z

    (Lu et al., 2022b, in the midpoint form). Its first-order step is
    ancestral sampling with the small variance.
    """

    evaluations = 1

    def init(self, x_t: Array) -> State:
        return _history(x_t)

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
        at = ends(process, interval)
        x_0 = _extrapolate(prediction.x_0, at, interval, state)
        share = -jnp.expm1(-2 * at.rise)
        x = at.there.sigma / at.here.sigma * jnp.exp(-at.rise) * x_t
        x += at.there.alpha * share * x_0
        x += at.there.sigma * jnp.sqrt(share) * normal(interval.keys, x_t)
        # A step that began without a signal rose from minus infinity.
        rise = jnp.where(at.here.alpha < 1e-5, jnp.inf, at.rise)
        return x, (prediction.x_0, rise), memory


def _history(x_t: Array) -> State:
    """The last x_0 and the last rise of lambda; not read in the first step."""
    return jnp.zeros(x_t.shape, jnp.float32), jnp.ones((), jnp.float32)


def _extrapolate(x_0: Array, at: Ends, interval: Interval, state: State) -> Array:
    """x_0 as it will be half way through the step, from this one and the last."""
    x_0_last, rise_last = state
    first_order = (interval.index == 0) | interval.last
    reach = jnp.where(first_order, 0, at.rise / (2 * rise_last))
    return x_0 + reach * (x_0 - x_0_last)
