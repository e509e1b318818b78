# SPDX-License-Identifier: Apache-2.0
"""Positions: sines and cosines that are added, and rotations of queries and keys."""

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

from jdit.ops.platform import platform
from jdit.typing import Array, Float


def sincos(coordinates: Float[np.ndarray, "n a"], dim: int) -> Float[Array, "n d"]:
    """Sines and cosines of coordinates, added to tokens once.

    Each axis gets an equal share of `dim`, as [sin, cos] with frequencies
    10000^(-i/m), computed in float64. The *last* axis comes first: the published 2-d
    embedding (MAE, and DiT after it) puts the column in the first half.

    Raises ValueError unless `dim` is a multiple of twice the number of axes.
    """
    axes = coordinates.shape[-1]
    if dim % (2 * axes):
        raise ValueError(
            f"dim is {dim}, but sin-cos positions over {axes} axes need a multiple "
            f"of {2 * axes}"
        )
    omega = 10000.0 ** -(np.arange(dim // axes // 2) / (dim / axes / 2))
    angles = np.asarray(coordinates, np.float64)[:, ::-1, None] * omega
    table = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    return jnp.asarray(table.reshape(len(table), dim), jnp.float32)


def rotary_table(
    coordinates: Float[np.ndarray, "n a"],
    axes_dim: tuple[int, ...],
    theta: float = 10000.0,
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Cosines and sines for n-d rotary positions, each `n sum(axes_dim)/2`.

    Axis a turns `axes_dim[a]` channels of every head, in pairs, with frequencies
    theta^(-2i/axes_dim[a]) (RoFormer, equation 15, one block per axis as in Flux).
    """
    if any(dim % 2 for dim in axes_dim) or len(axes_dim) != coordinates.shape[-1]:
        raise ValueError(
            f"axes_dim is {axes_dim}, but it must hold one even number for each of "
            f"the {coordinates.shape[-1]} axes"
        )
    position = np.asarray(coordinates, np.float64)
    angles = [
        position[:, i, None] * theta ** -(np.arange(0, dim, 2) / dim)
        for i, dim in enumerate(axes_dim)
    ]
    table = np.concatenate(angles, -1)
    return jnp.asarray(np.cos(table), jnp.float32), jnp.asarray(
        np.sin(table), jnp.float32
    )


def interleave(
    table: tuple[Float[Array, "n k"], Float[Array, "n k"]], axes: int
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """The rotations of a `rotary_table` of equal shares, with the axes taking turns.

    Pair `axes i + a` of a head belongs to axis a, as in Lumina-Next and DDT; in the
    table as it is made, all pairs of the first axis come first.
    """
    cos, sin = (rearrange(x, "n (a i) -> n (i a)", a=axes) for x in table)
    return cos, sin


def rotate(
    x: Float[Array, "*b n k"], table: tuple[Float[Array, "..."], Float[Array, "..."]]
) -> Float[Array, "*b n k"]:
    """Turn neighbouring pairs of channels of `x` (queries or keys) by the table.

    The dot product of a rotated query and key depends on their coordinates'
    difference only. Pairs are (0, 1), (2, 3), ...; computed in float32.

    On a TPU each channel's neighbour is found by a product with a matrix of 0, 1 and
    -1, which is exact: channels lie along lanes there, and taking every second one
    costs more than the product that made the heads (docs/performance.md).
    """
    if platform() == "tpu":
        cos, sin = (jnp.repeat(part, 2, -1) for part in table)
        first = np.arange(0, x.shape[-1], 2)
        turned = np.zeros((x.shape[-1],) * 2, np.float32)
        turned[first + 1, first], turned[first, first + 1] = -1, 1
        exact = lax.Precision.HIGHEST
        other = jnp.matmul(x, jnp.asarray(turned, x.dtype), precision=exact)
        found = x.astype(jnp.float32) * cos + other.astype(jnp.float32) * sin
        return found.astype(x.dtype)
    cos, sin = table
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    pair = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
    return pair.reshape(x.shape).astype(x.dtype)
