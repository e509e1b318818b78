# SPDX-License-Identifier: Apache-2.0
"""How much the squared error of a process's target counts at each time.

Papers state weights for the error of x_0, of the noise, or of their own target. Given
x_t, the error of any target is `|det| / sigma` times that of x_0, with `det` from the
process's table (`Gaussian.determinant`); so one formula serves all targets.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from jdit.processes import Gaussian, sigma_data
from jdit.typing import Array, Float


@runtime_checkable
class Weighting(Protocol):
    """How much the squared error of the process's own target counts at each time."""

    def __call__(self, process: Gaussian, time: Float[Array, " b"]) -> Array: ...


@dataclass(frozen=True)
class UniformWeight:
    """Weight 1: the plain squared error of the network's output."""

    def __call__(self, process: Gaussian, time: Float[Array, " b"]) -> Array:
        return jnp.ones_like(time)


@dataclass(frozen=True)
class MinSNR:
    """`min(SNR, gamma)` on the error of x_0 (Hang et al., 2023, section 3.4).

    With `SNR = alpha^2 / sigma^2` this is `min(alpha^2, gamma sigma^2) / det^2` on the
    target's: `min(SNR, gamma) / SNR` for noise, `min(SNR, gamma)` for x_0,
    `min(SNR, gamma) / (SNR + 1)` for v on variance-preserving paths, and
    `min((1 - t)^2, gamma t^2)` for the velocity of rectified flow.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, process: Gaussian, time: Float[Array, " b"]) -> Array:
        at = process.path(time)
        data, noise = jnp.square(at.alpha), self.gamma * jnp.square(at.sigma)
        det = process.determinant(process.target, at)
        return jnp.minimum(data, noise) / jnp.square(det)


@dataclass(frozen=True)
class SoftMinSNR:
    """`SNR gamma / (SNR + gamma)` on the error of x_0: a smooth `MinSNR`.

    With EDM's noise level it is `1 / (sigma^2 + 1 / gamma)` (Crowson et al., 2024,
    Hourglass Diffusion Transformers, with gamma 4).
    """

    gamma: float = 4.0

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, process: Gaussian, time: Float[Array, " b"]) -> Array:
        at = process.path(time)
        data, noise = jnp.square(at.alpha), self.gamma * jnp.square(at.sigma)
        det = process.determinant(process.target, at)
        return data * noise / (data + noise) / jnp.square(det)


@dataclass(frozen=True)
class EDMWeight:
    """`(sigma^2 + sd^2) / (sigma sd)^2` on the error of x_0 (Karras et al., 2022).

    Here sigma is the noise level `sigma / alpha`, and sd the path's `sigma_data` (1 if
    it has none). For the target "edm", for which it was made, the weight is 1 at every
    time; table 1, lambda.
    """

    def __call__(self, process: Gaussian, time: Float[Array, " b"]) -> Array:
        at, data = process.path(time), sigma_data(process.path)
        det = process.determinant(process.target, at)
        return (jnp.square(at.sigma / data) + jnp.square(at.alpha)) / jnp.square(det)


def _check_gamma(gamma: float) -> None:
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}, but it must be above 0")
