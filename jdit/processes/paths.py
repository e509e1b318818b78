# SPDX-License-Identifier: Apache-2.0
"""Gaussian paths: how much data and how much noise there is at each time.

A path is any callable from time to `Coefficients`. It may also define, and then the
functions below and `Gaussian` use,

    log_snr(time), time_from_log_snr(value)   in closed form,
    transition(time, next_time)               without cancellation,
    input_scale(time)                         what the network's input is multiplied by,
    prior_scale                               the standard deviation of the prior,
    sigma_data                                the standard deviation of the data.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax

from jdit.typing import Array, Float

TINY = 1e-8
"""What alpha and sigma are clamped to where one divides by them or takes the log."""


class Coefficients(NamedTuple):
    """`x_t = alpha x_0 + sigma noise`, and the derivatives by time."""

    alpha: Float[Array, "..."]
    sigma: Float[Array, "..."]
    d_alpha: Float[Array, "..."]
    d_sigma: Float[Array, "..."]


@runtime_checkable
class Path(Protocol):
    """A Gaussian path: alpha(0) = 1 and sigma(0) = 0 exactly; log SNR falls."""

    def __call__(self, time: Float[Array, "..."]) -> Coefficients: ...


class Transition(NamedTuple):
    """`x_t = ratio x_s + sqrt(variance) noise` from an earlier time s to a later t."""

    ratio: Float[Array, "..."]
    variance: Float[Array, "..."]


@dataclass(frozen=True)
class Linear:
    """Rectified flow: `x_t = (1 - t) x_0 + t noise` (Liu et al., 2022)."""

    def __call__(self, time: Float[Array, "..."]) -> Coefficients:
        time = jnp.asarray(time, jnp.float32)
        one = jnp.ones_like(time)
        return Coefficients(1 - time, time, -one, one)

    def time_from_log_snr(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        return 1 / (1 + jnp.exp(jnp.asarray(value, jnp.float32) / 2))


@dataclass(frozen=True)
class GVP:
    """`x_t = cos(pi t / 2) x_0 + sin(pi t / 2) noise` (SiT, Ma et al., 2024).

    The cosine is computed as `sin(pi (1 - t) / 2)`, so that alpha(1) is 0 exactly.
    """

    def __call__(self, time: Float[Array, "..."]) -> Coefficients:
        half = jnp.float32(jnp.pi / 2)
        time = jnp.asarray(time, jnp.float32)
        sigma, alpha = jnp.sin(half * time), jnp.sin(half * (1 - time))
        return Coefficients(alpha, sigma, -half * sigma, half * alpha)

    def time_from_log_snr(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        ratio = jnp.exp(-jnp.asarray(value, jnp.float32) / 2)
        return jnp.arctan(ratio) * jnp.float32(2 / jnp.pi)


@dataclass(frozen=True)
class EDM:
    """`x_t = x_0 + sigma noise` with `sigma = sigma_max time` (Karras et al., 2022).

    EDM's own clock is sigma itself; here it is divided by its largest value, so that
    time 0 is data. The network sees `x_t / sqrt(sigma^2 + sigma_data^2)` (table 1,
    c_in); predict the target "edm" to have its preconditioning whole.

    sigma_max: noise level at time 1. sigma_data: standard deviation of the data.
    """

    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        for name in ("sigma_max", "sigma_data"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be > 0")

    def __call__(self, time: Float[Array, "..."]) -> Coefficients:
        time = jnp.asarray(time, jnp.float32)
        one = jnp.ones_like(time)
        return Coefficients(one, self.sigma_max * time, 0 * one, self.sigma_max * one)

    def input_scale(self, time: Float[Array, "..."]) -> Float[Array, "..."]:
        """c_in: the scale at which the network's input has unit variance."""
        return 1 / jnp.hypot(self(time).sigma, self.sigma_data)

    def time_from_log_snr(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        sigma = jnp.exp(-jnp.asarray(value, jnp.float32) / 2)
        return jnp.minimum(sigma / self.sigma_max, 1)


def sigma_data(path: Path) -> float:
    """The standard deviation a path says its data has; 1 if it says nothing."""
    return getattr(path, "sigma_data", 1.0)


def log_snr(path: Path, time: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(alpha^2 / sigma^2)`, strictly falling in time.

    It has no finite value where alpha or sigma is 0; these are clamped to 1e-8, so that
    it lies within +-36.9.
    """
    if hasattr(path, "log_snr"):
        return path.log_snr(time)
    at = path(time)
    return 2 * (_log(at.alpha) - _log(at.sigma))


def time_from_log_snr(path: Path, value: Float[Array, "..."]) -> Float[Array, "..."]:
    """The time at which `log_snr(path, time)` is `value`, clipped to [0, 1].

    The path's own inverse where it has one, else 48 bisections; jit- and vmap-safe.
    """
    value = jnp.asarray(value, jnp.float32)
    if hasattr(path, "time_from_log_snr"):
        return jnp.clip(path.time_from_log_snr(value), 0, 1)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        later = log_snr(path, middle) > value
        return jnp.where(later, middle, low), jnp.where(later, high, middle)

    low, high = lax.fori_loop(
        0, 48, halve, (jnp.zeros_like(value), jnp.ones_like(value))
    )
    return (low + high) / 2


def time_from_sigma(path: Path, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
    """The time at which the noise level `sigma(t) / alpha(t)` is `sigma`.

    This is EDM's sigma on any path: `x_t / alpha` is data plus noise of that level.
    """
    return time_from_log_snr(path, -2 * _log(jnp.asarray(sigma, jnp.float32)))


def transition(
    path: Path, time: Float[Array, "..."], next_time: Float[Array, "..."]
) -> Transition:
    """How x at `time` arises from x at the earlier `next_time`, for any Gaussian path.

    `ratio = alpha_t / alpha_s`; `variance = sigma_t^2 - ratio^2 sigma_s^2`, computed as
    `sigma_t^2 (1 - SNR_t / SNR_s)` (Variational Diffusion Models, Kingma et al., 2021,
    appendix A.1). On a discrete path's neighbours these are `sqrt(1 - beta)` and beta.
    """
    if hasattr(path, "transition"):
        return path.transition(time, next_time)
    later, earlier = path(time), path(next_time)
    share = -jnp.expm1(log_snr(path, time) - log_snr(path, next_time))
    ratio = later.alpha / jnp.maximum(earlier.alpha, TINY)
    return Transition(ratio, jnp.square(later.sigma) * share)


def _log(x: Array) -> Array:
    return jnp.log(jnp.maximum(x, TINY))
