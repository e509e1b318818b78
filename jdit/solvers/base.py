# SPDX-License-Identifier: Apache-2.0
"""What a solver is: it is handed the denoiser, and integrates from noise to data."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jdit.denoise import Denoise
from jdit.processes import Coefficients, Gaussian, log_snr
from jdit.typing import Array, Float, Int, Key, Memory

State = Any
"""What a solver remembers between steps, e.g. earlier predictions."""


class Interval(NamedTuple):
    """One step of the grid: from `time` down to `next_time`.

    index: of the step, from 0; last: whether it is the grid's last.
    keys: one key per image, so that image i's noise depends on its key alone.
    """

    time: Float[Array, ""]
    next_time: Float[Array, ""]
    index: Int[Array, ""]  # type: ignore[assignment]
    last: Array
    keys: Array


class Solver(Protocol):
    """How the reverse process is integrated."""

    @property
    def evaluations(self) -> int:
        """Network evaluations per step."""
        ...

    def init(self, x_t: Float[Array, "b *g c"]) -> State:
        """The first state, for a batch of this shape."""
        ...

    def step(
        self,
        denoise: Denoise,
        process: Gaussian,
        x_t: Float[Array, "b *g c"],
        interval: Interval,
        state: State,
        memory: Memory,
    ) -> tuple[Float[Array, "b *g c"], State, Memory]:
        """x at `interval.next_time`. Evaluation j of step i is number
        `i * evaluations + j`."""
        ...


class Ends(NamedTuple):
    """A Gaussian path at both ends of an interval, as exponential solvers need it.

    rise: by how much lambda = log(alpha / sigma) rises, above 0. Where alpha or sigma
        is 0, lambda has no finite value; `jdit.processes.log_snr` clamps it, so that
        `exp(-rise)` is 0 in float32 terms and every formula below has its limit.
    """

    here: Coefficients
    there: Coefficients
    rise: Float[Array, ""]


def ends(process: Gaussian, interval: Interval) -> Ends:
    """The path at both ends of an interval."""
    path, time, next_time = process.path, interval.time, interval.next_time
    rise = (log_snr(path, next_time) - log_snr(path, time)) / 2
    return Ends(path(time), path(next_time), rise)


def normal(keys: Array, like: Float[Array, "b *g c"]) -> Float[Array, "b *g c"]:
    """Standard normal noise, image i drawn from `keys[i]` alone."""

    def draw(key: Key) -> Array:
        return jax.random.normal(key, like.shape[1:], jnp.float32)

    return jax.vmap(draw)(keys)
