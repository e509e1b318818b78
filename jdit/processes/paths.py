# SPDX-License-Identifier: Apache-2.0
"""Gaussian paths: how much data and how much noise there is at each time."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax.numpy as jnp

from jdit.typing import Array, Float


class Coefficients(NamedTuple):
    """`x_t = alpha x_0 + sigma noise`, and the derivatives by time."""

    alpha: Float[Array, "..."]
    sigma: Float[Array, "..."]
    d_alpha: Float[Array, "..."]
    d_sigma: Float[Array, "..."]


class Path(Protocol):
    """A Gaussian path: alpha falls, sigma grows, sigma(0) = 0."""

    def __call__(self, time: Float[Array, "..."]) -> Coefficients: ...


@dataclass(frozen=True)
class Linear:
    """Rectified flow: `x_t = (1 - t) x_0 + t noise` (Liu et al., 2022)."""

    def __call__(self, time: Float[Array, "..."]) -> Coefficients:
        one = jnp.ones_like(time)
        return Coefficients(1 - time, time, -one, one)
