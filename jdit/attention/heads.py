# SPDX-License-Identifier: Apache-2.0
"""What every kind of attention does with its heads."""

import jax.numpy as jnp
from einops import rearrange

from jdit import ops
from jdit.tokens.positions import rotate
from jdit.typing import Array, Bool, Float

Rotary = tuple[Array, Array]
"""Cosines and sines of `jdit.tokens.rotary_table`, `n k/2`, or `b n k/2` by image.

With four axes, `b h n k/2`, they are by image and head, either of which may be 1."""


def split_heads(x: Float[Array, "b n e"], heads: int) -> Float[Array, "b h n k"]:
    """The heads of a projection, first head first."""
    return rearrange(x, "b n (h k) -> b h n k", h=heads)


def turn(x: Float[Array, "b h n k"], rotary: Rotary | None) -> Float[Array, "b h n k"]:
    """Queries or keys turned by their positions; as they are for None."""
    if rotary is None:
        return x
    cos, sin = rotary
    if cos.ndim == 3:  # one table per image
        cos, sin = cos[:, None], sin[:, None]
    return rotate(x, (cos, sin))


def attend(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    *,
    mask: Bool[Array, "b m"] | None = None,
    rotary: Rotary | None = None,
    key_rotary: Rotary | None = None,
) -> Float[Array, "b n e"]:
    """Attention from heads to merged heads, `e = h k`.

    k, v: may have fewer heads g, a divisor of h: head i reads group i // (h / g)
        (grouped-query attention; Ainslie et al., 2023).
    mask: which keys are real. rotary: the positions of the queries, and of the keys
        unless `key_rotary` says theirs.
    """
    q, k = turn(q, rotary), turn(k, rotary if key_rotary is None else key_rotary)
    if q.shape[1] != k.shape[1]:
        k, v = (jnp.repeat(x, q.shape[1] // k.shape[1], 1) for x in (k, v))
    return rearrange(ops.attention(q, k, v, mask=mask), "b h n k -> b n (h k)")
