# SPDX-License-Identifier: Apache-2.0
"""How the network is told the time."""

from dataclasses import dataclass
from typing import Protocol

import flax.linen as nn
import jax.numpy as jnp

from jdit.linear import Linear
from jdit.typing import Array, Float

normal = nn.initializers.normal(0.02)


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
    value: Float[Array, " b"], dim: int, max_period: float = 10000.0
) -> Float[Array, "b e"]:
    """[cos, sin] of `value` at `dim / 2` frequencies, float32 (DiT, as in ADM).

    Frequencies fall from 1 to 1 / max_period in `dim / 2` equal ratios, the last not
    reached. An odd `dim` ends with a zero.
    """
    half = dim // 2
    rate = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = value.astype(jnp.float32)[:, None] * rate
    table = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.pad(table, ((0, 0), (0, dim % 2)))


class TimeEmbedding(nn.Module):
    """DiT's timestep embedding: `frequencies`, then Linear, SiLU, Linear; float32.

    dim: width of the result; basis: number of sines and cosines.
    """

    dim: int
    basis: int = 256

    @nn.compact
    def __call__(self, value: Float[Array, " b"]) -> Float[Array, "b d"]:
        x = frequencies(value, self.basis)
        x = nn.silu(Linear(self.dim, kernel_init=normal, name="in")(x))
        return Linear(self.dim, kernel_init=normal, name="out")(x)
