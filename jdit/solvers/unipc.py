# SPDX-License-Identifier: Apache-2.0
"""UniPC: a multistep predictor whose every result the next evaluation corrects."""

from dataclasses import dataclass
from math import factorial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jdit.denoise import Denoise
from jdit.processes import Coefficients, Gaussian
from jdit.solvers.base import Interval, State, ends
from jdit.typing import Array, Memory


class _Memory(NamedTuple):
    """x before the last prediction; x_0 there and one step earlier; the path there; the
    rises of lambda of the last step and the one before; whether it was second order."""

    x: Array
    x_0: Array
    x_0_before: Array
    at: Coefficients
    rise: Array
    rise_before: Array
    second: Array


@dataclass(frozen=True)
class UniPC:
    """UniPC of order 2, predicting x_0 (Zhao et al., 2023).

    Each step first corrects the x it was handed: with the evaluation made there, the
    last step is done again at one order more. Then it predicts as DPM-Solver++ 2M does.
    No evaluation is spent on the correction. The first step and the one to time 0
    predict with first order.

    step_size: B(h) of the paper: "bh2" is `exp(-h) - 1`, "bh1" is `-h`; "bh2" is the
        better one at few steps, and the only sensible one where lambda is infinite (the
        first step of a flow).
    """

    step_size: Literal["bh1", "bh2"] = "bh2"

    evaluations = 1

    def __post_init__(self) -> None:
        if self.step_size not in ("bh1", "bh2"):
            raise ValueError(
                f"step_size is {self.step_size!r}, but it must be 'bh1' or 'bh2'"
            )

    def init(self, x_t: Array) -> State:
        empty, one = jnp.zeros(x_t.shape, jnp.float32), jnp.ones((), jnp.float32)
        at = Coefficients(one, one, one, one)
        return _Memory(empty, empty, empty, at, one, one, jnp.zeros((), bool))

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
        at, x_0 = ends(process, interval), prediction.x_0
        begun = interval.index > 0
        x_t = jnp.where(begun, self._correct(state, at.here, x_0), x_t)

        second = begun & ~interval.last
        back = -state.rise / at.rise
        slope = jnp.where(second, (state.x_0 - x_0) / back, 0)
        x = _linear(x_t, x_0, at.here, at.there, at.rise)
        x -= at.there.alpha * self._size(at.rise) * slope / 2
        state = _Memory(x_t, x_0, state.x_0, at.here, at.rise, state.rise, second)
        return x, state, memory

    def _correct(self, last: _Memory, here: Coefficients, x_0: Array) -> Array:
        """The last step again, with x_0 at its end known (UniC)."""
        size, z = self._size(last.rise), -last.rise
        b_1, b_2 = z * _phi(2, z) / size, 2 * z * _phi(3, z) / size
        back = -last.rise_before / last.rise
        rho = (b_1 - b_2) / (1 - back)
        rho_1 = jnp.where(last.second, rho, 0)
        rho_2 = jnp.where(last.second, b_1 - rho, 0.5)
        slope = jnp.where(last.second, (last.x_0_before - last.x_0) / back, 0)
        x = _linear(last.x, last.x_0, last.at, here, last.rise)
        return x - here.alpha * size * (rho_1 * slope + rho_2 * (x_0 - last.x_0))

    def _size(self, rise: Array) -> Array:
        return jnp.expm1(-rise) if self.step_size == "bh2" else -rise


def _linear(
    x: Array, x_0: Array, here: Coefficients, there: Coefficients, rise: Array
) -> Array:
    """The first-order exponential step."""
    return there.sigma / here.sigma * x - there.alpha * jnp.expm1(-rise) * x_0


def _phi(order: int, z: Array) -> Array:
    """phi_2 or phi_3 of exponential integrators: the tail of exp's series from z^order,
    over z^order; a series near 0, where the closed form cancels."""
    near = jnp.abs(z) < 1
    small, large = jnp.where(near, z, 0), jnp.where(near, 1, z)
    series = sum(small**n / factorial(n + order) for n in range(10))
    closed = jnp.expm1(large) / large
    for k in range(1, order):
        closed = (closed - 1 / factorial(k)) / large
    return jnp.where(near, series, closed)
