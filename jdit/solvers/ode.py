# SPDX-License-Identifier: Apache-2.0
"""Solvers of the probability-flow ordinary differential equation, in time itself."""

from dataclasses import dataclass

from jax import lax

from jdit.denoise import Denoise
from jdit.processes import Gaussian
from jdit.solvers.base import Interval, State
from jdit.typing import Array, Memory


@dataclass(frozen=True)
class Euler:
    """First order: `x + (next - time) * velocity`.

    On `EDM` it is EDM's Euler method, on `Linear` the flow models' sampler.
    """

    evaluations = 1

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
        velocity = process.express(prediction, interval.time, to="velocity")
        return x_t + (interval.next_time - interval.time) * velocity, state, memory


@dataclass(frozen=True)
class Heun:
    """Second order: Euler, then again with the mean of the velocities at both ends.

    The last step is Euler's, as the velocity at time 0 is undefined for most targets
    (Karras et al., 2022, algorithm 1, without its churn). It costs `2 steps - 1`
    network evaluations: the one that is not needed is not run.
    """

    evaluations = 2

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
        time, next_time, number = interval.time, interval.next_time, 2 * interval.index
        prediction, memory = denoise(x_t, time, memory, number)
        first = process.express(prediction, time, to="velocity")
        euler = x_t + (next_time - time) * first

        def correct(memory: Memory) -> tuple[Array, Memory]:
            prediction, memory = denoise(euler, next_time, memory, number + 1)
            second = process.express(prediction, next_time, to="velocity")
            return x_t + (next_time - time) * (first + second) / 2, memory

        def keep(memory: Memory) -> tuple[Array, Memory]:
            return euler, memory

        x, memory = lax.cond(interval.last, keep, correct, memory)
        return x, state, memory
