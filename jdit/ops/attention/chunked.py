# SPDX-License-Identifier: Apache-2.0
"""Attention in memory that grows with the tokens and not with their square."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from jdit.ops.attention import reference
from jdit.typing import Array, Bool, Float

LOGITS = 2**20
"""How many logits of one head a chunk holds: 4 MiB in float32."""


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
    chunk: int | None = None,
) -> Float[Array, "b h n k"]:
    """The reference, for `chunk` queries at a time; same answer, same gradients.

    A softmax over keys needs one query's logits only, so queries are cut and keys are
    not. The backward pass computes each chunk's logits again instead of keeping them
    (Rabe and Staats, 2021, section 3, without their second loop over keys). By
    default a chunk holds `LOGITS` logits of each head. Queries are padded with zeros
    to a whole number of chunks.
    """
    n, m = q.shape[-2], k.shape[-2]
    chunk = min(n, chunk or max(1, LOGITS // m))
    padded = jnp.pad(q, ((0, 0), (0, 0), (0, -n % chunk), (0, 0)))

    @jax.checkpoint
    def rows(part: Float[Array, "b h c k"]) -> Float[Array, "b h c k"]:
        return reference.attention(part, k, v, mask)

    parts = rearrange(padded, "b h (s c) k -> s b h c k", c=chunk)
    out = rearrange(lax.map(rows, parts), "s b h c k -> b h (s c) k")
    return out[:, :, :n]
