# SPDX-License-Identifier: Apache-2.0
"""What attention means, in plain JAX: the specification and the fallback."""

import jax
import jax.numpy as jnp

from jdit.typing import Array, Bool, Float, Int

Segments = tuple[Int[Array, "b n"], Int[Array, "b m"]]
"""The segment of each query and of each key: they meet where these are equal."""


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
) -> Float[Array, "b h n k"]:
    """`softmax(q k^T / sqrt(width)) v` with float32 logits and softmax.

    Keys outside the mask, or of another segment, get no weight. A query without any
    key gets zeros, and its gradients are zero: a mean over nothing adds nothing to the
    stream.
    """
    seen = visible(mask, segments)
    weights = jax.nn.softmax(_logits(q, k, seen), -1).astype(v.dtype)
    return silence(jnp.matmul(weights, v), seen)


def attention_with_lse(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
) -> tuple[Float[Array, "b h n k"], Float[Array, "b h n"]]:
    """The same, and `log(sum(exp(q k^T / sqrt(width))))` over the keys a query sees.

    A query without any key gets -inf, and no gradient from there.
    """
    seen = visible(mask, segments)
    logits = _logits(q, k, seen)
    lse = jax.nn.logsumexp(logits, -1)
    weights = jnp.exp(logits - lse[..., None]).astype(v.dtype)
    out = silence(jnp.matmul(weights, v), seen)
    return out, lse if seen is None else jnp.where(seen.any(-1), lse, -jnp.inf)


def visible(
    mask: Bool[Array, "b m"] | None, segments: Segments | None
) -> Bool[Array, "b 1 #n m"] | None:
    """Which keys each query sees; None for all."""
    padding = None if mask is None else mask[:, None, None, :]
    if segments is None:
        return padding
    of_queries, of_keys = segments
    same = of_queries[:, None, :, None] == of_keys[:, None, None, :]
    return same if padding is None else same & padding


def silence(
    out: Float[Array, "b h n k"], seen: Bool[Array, "b 1 #n m"] | None
) -> Float[Array, "b h n k"]:
    """Zeros for the queries that see no key at all."""
    return out if seen is None else jnp.where(seen.any(-1)[..., None], out, 0)


def _logits(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    seen: Bool[Array, "b 1 #n m"] | None,
) -> Float[Array, "b h n m"]:
    """Scaled products in float32, with the least number for keys that are not seen."""
    logits = jnp.matmul(
        q * q.shape[-1] ** -0.5,
        k.swapaxes(-1, -2),
        preferred_element_type=jnp.float32,
    )
    least = jnp.finfo(jnp.float32).min
    return logits if seen is None else jnp.where(seen, logits, least)
