# SPDX-License-Identifier: Apache-2.0
"""What attention means, in plain JAX: the specification and the fallback."""

import jax
import jax.numpy as jnp

from jdit.typing import Array, Bool, Float


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b h n k"]:
    """`softmax(q k^T / sqrt(width)) v` with float32 logits and softmax.

    Keys outside the mask get no weight. An image without any key gets zeros, and its
    gradients are zero: a mean over nothing adds nothing to the stream.
    """
    width = q.shape[-1]
    logits = jnp.matmul(
        q * width**-0.5, k.swapaxes(-1, -2), preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
    out = jnp.matmul(jax.nn.softmax(logits, -1).astype(v.dtype), v)
    return out if mask is None else silence(out, mask)


def silence(
    out: Float[Array, "b h n k"], mask: Bool[Array, "b m"]
) -> Float[Array, "b h n k"]:
    """Zeros for the images that have no key at all."""
    return jnp.where(mask.any(-1)[:, None, None, None], out, 0)
