# SPDX-License-Identifier: Apache-2.0
"""How the network is told the time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jdit.linear import Linear
from jdit.typing import Array, Float

normal = nn.initializers.normal(0.02)


@runtime_checkable
class Clock(Protocol):
    """The number a network was trained to read, from time in [0, 1]."""

    def __call__(self, time: Float[Array, " b"]) -> Float[Array, " b"]: ...


@dataclass(frozen=True)
class LinearClock:
    """`scale * time + shift`.

    DiT's 1000 diffusion indices are (1000, -1); flow models that count to 1000, such
    as SD3, are (1000, 0); SiT, whose clock runs from noise to data, is (-1, 1).
    """

    scale: float = 1000.0
    shift: float = 0.0

    def __call__(self, time: Float[Array, " b"]) -> Float[Array, " b"]:
        return self.scale * time + self.shift


@dataclass(frozen=True)
class LogSigmaClock:
    """`log(sigma) / 4` with sigma = sigma_max * time (EDM, table 1, c_noise)."""

    sigma_max: float = 80.0

    def __call__(self, time: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.log(jnp.maximum(time * self.sigma_max, 1e-8)) / 4


def frequencies(
    value: Float[Array, " b"],
    dim: int,
    max_period: float = 10000.0,
    shift: float = 0.0,
) -> Float[Array, "b e"]:
    """[cos, sin] of `value` at `dim / 2` frequencies, float32 (DiT, as in ADM).

    Frequencies fall from 1 to 1 / max_period in `dim / 2 - shift` equal ratios: with
    shift 0 the last is not reached, with shift 1 it is. An odd `dim` ends with a zero.
    """
    half = dim // 2
    exponent = -jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32)
    rate = jnp.exp(exponent / (half - shift))  # in the published order of rounding
    angles = value.astype(jnp.float32)[:, None] * rate
    table = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.pad(table, ((0, 0), (0, dim % 2)))


@dataclass(frozen=True)
class Sinusoids:
    """The features of a time that the embedding's first layer reads: `frequencies`.

    count: number of cosines and sines. max_period: the longest of their periods over
    2 pi. shift: 0 as published; 1 in diffusers' DiT (`jdit.interop.from_diffusers`).
    """

    count: int = 256
    max_period: float = 10000.0
    shift: float = 0.0

    def __call__(self, value: Float[Array, " b"]) -> Float[Array, "b e"]:
        return frequencies(value, self.count, self.max_period, self.shift)


@dataclass(frozen=True)
class Fourier:
    """[sin, cos] of `2 pi value f` at fixed frequencies f (Song et al., 2021, app. C).

    frequencies: drawn once from a normal distribution (`fourier`), or those with which
        published weights were trained. They are no parameters: nothing learns them.
    """

    frequencies: tuple[float, ...]

    def __call__(self, value: Float[Array, " b"]) -> Float[Array, "b e"]:
        f = jnp.asarray(self.frequencies, jnp.float32)
        angles = value.astype(jnp.float32)[:, None] * f * 2 * jnp.pi
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def fourier(count: int = 256, scale: float = 1.0, seed: int = 0) -> Fourier:
    """`count` frequencies from a normal distribution of this scale, float32."""
    drawn = scale * np.random.default_rng(seed).normal(size=count)
    return Fourier(tuple(drawn.astype(np.float32).tolist()))


class TimeEmbedding(nn.Module):
    """DiT's timestep embedding: sinusoids, then Linear, SiLU, Linear; float32.

    dim: width of the result; basis: the features of time that the first layer reads.
    """

    dim: int
    basis: Callable[[Array], Array] = Sinusoids()

    @nn.compact
    def __call__(self, value: Float[Array, " b"]) -> Float[Array, "b d"]:
        x = self.basis(value)
        x = nn.silu(Linear(self.dim, kernel_init=normal, name="in")(x))
        return Linear(self.dim, kernel_init=normal, name="out")(x)
