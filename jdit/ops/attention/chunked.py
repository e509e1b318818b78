# SPDX-License-Identifier: Apache-2.0
"""Attention in memory that grows with the tokens and not with their square."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from jdit.ops.attention import reference
from jdit.ops.attention.reference import Segments
from jdit.typing import Array, Bool, Float

LONG = 2048**2
"""From this many logits a head on, attention is done in chunks."""

LOGITS = 2**20
"""How many logits of one head a chunk holds: 4 MiB in float32."""


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
    chunk: int | None = None,
) -> Float[Array, "b h n k"]:
    """The reference, for `chunk` queries at a time; same answer, same gradients.

    A softmax over keys needs one query's logits only, so queries are cut and keys are
    not. The backward pass computes each chunk's logits again instead of keeping them
    (Rabe and Staats, 2021, section 3, without their second loop over keys). By
    default a chunk holds `LOGITS` logits of each head. Queries are padded with zeros
    to a whole number of chunks.
    """
    return _by_chunks(reference.attention, q, k, v, mask, segments, chunk)


def attention_with_lse(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
    chunk: int | None = None,
) -> tuple[Float[Array, "b h n k"], Float[Array, "b h n"]]:
    """The reference with its log-sum-exp, likewise."""
    return _by_chunks(reference.attention_with_lse, q, k, v, mask, segments, chunk)


def _by_chunks(
    attend: Callable[..., Any],
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    segments: Segments | None,
    chunk: int | None,
) -> Any:
    n, m = q.shape[-2], k.shape[-2]
    chunk = min(n, chunk or max(1, LOGITS // m))
    padded = jnp.pad(q, ((0, 0), (0, 0), (0, -n % chunk), (0, 0)))
    parts = rearrange(padded, "b h (s c) k -> s b h c k", c=chunk)
    names = None
    if segments is not None:
        padded = jnp.pad(segments[0], ((0, 0), (0, -n % chunk)))
        names = rearrange(padded, "b (s c) -> s b c", c=chunk)

    @jax.checkpoint
    def rows(part: tuple[Array, Array | None]) -> Any:
        queries, name = part
        met = None if segments is None or name is None else (name, segments[1])
        return attend(queries, k, v, mask, met)

    def joined(x: Array) -> Array:
        return rearrange(x, "s b h c ... -> b h (s c) ...")[:, :, :n]

    return jax.tree.map(joined, lax.map(rows, (parts, names)))
