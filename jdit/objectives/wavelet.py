# SPDX-License-Identifier: Apache-2.0
"""A robust loss on wavelets, as robust and as heavy as the noise asks for."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from jdit.objectives.base import Network, ask
from jdit.objectives.times import TimeSampling, UniformTime
from jdit.processes import Gaussian
from jdit.typing import Array, Conditions, Float, Key, Params

SMALLEST = 1e-6
"""What alpha and sigma are at least, so that every time has a finite weight."""


@dataclass(frozen=True)
class HuberWavelet:
    """`weight(t) mean(rho(W x_0_hat - W x_0))`: UltraFlux's SNR-aware Huber wavelets.

    W is one level of the orthonormal Haar transform and `x_0_hat` what the network's
    output says of the data. With `SNR = alpha^2 / sigma^2` and `low = min(SNR, gamma)`

        rho(r) = c^2 (sqrt(1 + (r / c)^2) - 1),
        c(t) = least + (most - least) (low / gamma)^alpha,
        weight(t) = sigma / alpha low^beta;

    rho is r^2 / 2 where |r| is far below c, and c |r| far above. With beta 1/2 the
    weight is 1 wherever SNR is below gamma. The paper says that c to infinity with beta
    0 is flow matching; by its equations that is `t^3 / (2 (1 - t))` times it.

    times: the distribution of training times.
    thresholds: (least, most) of c, as published.
    alpha, beta, gamma: the paper has alpha in [0, 1], beta from 0, gamma above 0, and
        names no values; these are chosen, gamma as in Min-SNR.

    Raises ValueError for settings out of these ranges, and for data with an odd axis.
    Source: UltraFlux (Ye et al., 2025), section 3.2.3, equations 11 to 14, table 9.
    """

    times: TimeSampling = UniformTime()
    thresholds: tuple[float, float] = (0.2, 1.0)
    alpha: float = 1.0
    beta: float = 0.5
    gamma: float = 5.0

    def __post_init__(self) -> None:
        least, most = self.thresholds
        if not 0 < least <= most:
            raise ValueError(
                f"thresholds is {self.thresholds}, but it must be (least, most) with "
                "0 < least <= most"
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}, but it must lie in [0, 1]")
        if not self.beta >= 0:
            raise ValueError(f"beta is {self.beta}, but it must be at least 0")
        if not self.gamma > 0:
            raise ValueError(f"gamma is {self.gamma}, but it must be above 0")

    def parameters(self, key: Key, model: Any) -> Params:
        return {}

    def __call__(
        self,
        key: Key,
        network: Network,
        params: Params,
        process: Gaussian,
        x_0: Float[Array, "b *g c"],
        conditions: Conditions,
    ) -> tuple[Float[Array, " b"], dict[str, Array]]:
        time, x_t, _, out = ask(key, self.times, network, process, x_0, conditions)
        error = haar(process.predict(out.prediction, x_t, time).x_0 - x_0)
        error = error.reshape(len(error), -1)
        weight, threshold = self.at(process, time)
        losses = weight * pseudo_huber(error, threshold[:, None]).mean(-1)
        return losses, {"error": jnp.square(error).mean()}

    def at(
        self, process: Gaussian, time: Float[Array, " b"]
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """The weight and the threshold c of each time."""
        at, (least, most) = process.path(time), self.thresholds
        ratio = jnp.maximum(at.alpha, SMALLEST) / jnp.maximum(at.sigma, SMALLEST)
        low = jnp.minimum(jnp.square(ratio), self.gamma)
        threshold = least + (most - least) * (low / self.gamma) ** self.alpha
        return low**self.beta / ratio, threshold


def pseudo_huber(
    error: Float[Array, "..."], threshold: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`c^2 (sqrt(1 + (r / c)^2) - 1)`, written so that a large c loses no digits."""
    square = jnp.square(error)
    return square / (1 + jnp.sqrt(1 + square / jnp.square(threshold)))


def haar(x: Float[Array, "b *g c"]) -> Float[Array, "b *h e"]:
    """One level of the orthonormal Haar transform along every axis of the grid.

    The grid is halved along each axis and its bands are stacked on the channels: for
    images, means first, then differences of rows, of columns, and of both.
    Sums of squares are kept. Raises ValueError for an odd axis.
    """
    grid = x.shape[1:-1]
    if any(size % 2 for size in grid):
        raise ValueError(f"x has the grid {grid}, but wavelets need even axes")
    for axis in range(1, x.ndim - 1):
        even, odd = (lax.slice_in_dim(x, i, None, 2, axis) for i in (0, 1))
        x = jnp.concatenate([even + odd, even - odd], -1) * 0.5**0.5
    return x
