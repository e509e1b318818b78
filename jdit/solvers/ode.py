# SPDX-License-Identifier: Apache-2.0
"""Solvers of the probability-flow ordinary differential equation."""

from dataclasses import dataclass

from jdit.denoise import Denoise
from jdit.processes import Gaussian
from jdit.solvers.base import Interval, State
from jdit.typing import Array, Memory


@dataclass(frozen=True)
class Euler:
    """First order: `x + (next - time) * velocity`."""

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
