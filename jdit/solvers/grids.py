# SPDX-License-Identifier: Apache-2.0
"""Time grids: the `steps + 1` times a solver visits, from 1 down to 0."""

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp

from jdit.processes import Gaussian
from jdit.typing import Array, Float


class Grid(Protocol):
    """Falling times, the first 1 (or just below), the last 0."""

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]: ...


@dataclass(frozen=True)
class Uniform:
    """Equal steps in time."""

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        return jnp.linspace(1.0, 0.0, steps + 1)
