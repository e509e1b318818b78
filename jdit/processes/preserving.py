# SPDX-License-Identifier: Apache-2.0
"""Variance-preserving paths: `alpha^2 + sigma^2 = 1`.

Most are defined by the logarithm of `alpha_bar = alpha^2`, from which sigma follows
without cancellation as `sqrt(-expm1(log alpha_bar))`.
"""

import abc
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jdit.processes.paths import TINY, Coefficients, Transition
from jdit.typing import Array, Float

SMALLEST_SIGMA = 1e-3
"""sigma grows as the square root of time at 0, so its derivative has no limit there.
Where sigma is below this (about the first 1e-5 of time, which SiT too leaves out of the
training of its VP path) the derivative is computed as if sigma were this."""


class Preserving(abc.ABC):
    """What the paths that are defined by `log alpha_bar` have in common."""

    prior_scale = 1.0

    @abc.abstractmethod
    def log_alpha_bar(self, time: Float[Array, "..."]) -> tuple[Array, Array]:
        """`log alpha^2`, which is 0 at time 0, and its derivative by time."""

    @abc.abstractmethod
    def time_from_log_alpha_bar(self, value: Float[Array, "..."]) -> Array:
        """The inverse of `log_alpha_bar`."""

    @abc.abstractmethod
    def log_ratio(
        self, time: Float[Array, "..."], next_time: Float[Array, "..."]
    ) -> Array:
        """`log (alpha_bar(time) / alpha_bar(next_time))`, without cancellation."""

    def __call__(self, time: Float[Array, "..."]) -> Coefficients:
        log, slope = self.log_alpha_bar(jnp.asarray(time, jnp.float32))
        alpha, variance = jnp.exp(log / 2), -jnp.expm1(log)
        sigma = _sqrt(variance)
        d_alpha = slope * alpha / 2
        d_sigma = -alpha * d_alpha / jnp.maximum(sigma, SMALLEST_SIGMA)
        return Coefficients(alpha, sigma, d_alpha, d_sigma)

    def log_snr(self, time: Float[Array, "..."]) -> Float[Array, "..."]:
        log, _ = self.log_alpha_bar(jnp.asarray(time, jnp.float32))
        return log - jnp.log(jnp.maximum(-jnp.expm1(log), TINY**2))

    def time_from_log_snr(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.time_from_log_alpha_bar(-jax.nn.softplus(-value))

    def transition(
        self, time: Float[Array, "..."], next_time: Float[Array, "..."]
    ) -> Transition:
        log = self.log_ratio(time, next_time)
        return Transition(jnp.exp(log / 2), -jnp.expm1(log))


@dataclass(frozen=True)
class VPLinear(Preserving):
    """The VP SDE whose rate grows linearly from beta_min to beta_max.

    `log alpha_bar = -beta_min t - (beta_max - beta_min) t^2 / 2` (Song et al., 2021,
    equation 33).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(
                f"beta_min and beta_max are {self.beta_min} and {self.beta_max}, but "
                "they must be positive, the first below the second"
            )

    def log_alpha_bar(self, time: Float[Array, "..."]) -> tuple[Array, Array]:
        growth = self.beta_max - self.beta_min
        log = -time * (self.beta_min + growth * time / 2)
        return log, -(self.beta_min + growth * time)

    def time_from_log_alpha_bar(self, value: Float[Array, "..."]) -> Array:
        growth = self.beta_max - self.beta_min
        root = jnp.sqrt(self.beta_min**2 - 2 * growth * value)
        return -2 * value / (self.beta_min + root)

    def log_ratio(
        self, time: Float[Array, "..."], next_time: Float[Array, "..."]
    ) -> Array:
        time, next_time = jnp.asarray(time), jnp.asarray(next_time)
        mean = self.beta_min + (self.beta_max - self.beta_min) * (time + next_time) / 2
        return -(time - next_time) * mean


@dataclass(frozen=True)
class VPCosine:
    """`alpha = cos(phi(t)) / cos(phi(0))`, `phi(t) = (t + offset) / (1 + offset) pi/2`.

    The continuous form of Improved DDPM's schedule (Nichol and Dhariwal, 2021, equation
    17), without its clipping: alpha(1) is 0 exactly. With the addition theorems,
    `sigma^2 = sin(phi(t) - phi(0)) sin(phi(t) + phi(0)) / cos(phi(0))^2`.
    """

    offset: float = 0.008
    prior_scale = 1.0

    def __post_init__(self) -> None:
        if self.offset <= 0:
            raise ValueError(f"offset is {self.offset}, but it must be > 0")

    @property
    def _rate(self) -> float:
        return float(np.pi / 2 / (1 + self.offset))

    def __call__(self, time: Float[Array, "..."]) -> Coefficients:
        time, rate = jnp.asarray(time, jnp.float32), self._rate
        start = rate * self.offset
        angle = rate * (time + self.offset)
        norm = float(np.cos(start))
        alpha = jnp.minimum(jnp.sin(rate * (1 - time)) / norm, 1)
        sigma = _sqrt(jnp.sin(rate * time) * jnp.sin(angle + start)) / norm
        d_alpha = -rate * jnp.sin(angle) / norm
        d_sigma = -alpha * d_alpha / jnp.maximum(sigma, SMALLEST_SIGMA)
        return Coefficients(alpha, sigma, d_alpha, d_sigma)

    def time_from_log_snr(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        start = self._rate * self.offset
        alpha = jnp.sqrt(jax.nn.sigmoid(value)) * float(np.cos(start))
        sine = jax.nn.sigmoid(-value) * float(np.cos(start) ** 2)
        sine = jnp.sqrt(sine + float(np.sin(start) ** 2))
        return (jnp.arctan2(sine, alpha) - start) / self._rate


def _sqrt(x: Array) -> Array:
    """The root, exactly 0 at 0, with a finite (zero) derivative there."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
