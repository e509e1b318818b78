# SPDX-License-Identifier: Apache-2.0
"""Attention by cuDNN's fused kernel, through JAX."""

import jax
import jax.numpy as jnp

from jdit.ops.attention import reference
from jdit.ops.attention.reference import Segments
from jdit.typing import Array, Bool, Float


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
) -> Float[Array, "b h n k"]:
    """The reference on an NVIDIA GPU, in bfloat16 or float16.

    Raises ValueError for other devices, dtypes and head widths, which cuDNN refuses.
    """
    if jax.default_backend() != "gpu":
        raise ValueError(
            f"implementation is 'cudnn', but the device is {jax.default_backend()!r}: "
            "it needs an NVIDIA GPU"
        )
    if q.dtype not in (jnp.bfloat16, jnp.float16) or q.shape[-1] % 8:
        raise ValueError(
            f"implementation is 'cudnn', but queries are {q.dtype} with heads of width "
            f"{q.shape[-1]}: it needs bfloat16 or float16 and a multiple of 8"
        )
    query, key, value = (x.swapaxes(1, 2) for x in (q, k, v))
    seen = reference.visible(mask, segments)
    out = jax.nn.dot_product_attention(
        query, key, value, mask=seen, implementation="cudnn"
    ).swapaxes(1, 2)
    return reference.silence(out, seen)


def attention_with_lse(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
) -> tuple[Float[Array, "b h n k"], Float[Array, "b h n"]]:
    """Raises ValueError: cuDNN's backward pass takes no gradient of it."""
    raise ValueError(
        "implementation is 'cudnn', but it gives no log-sum-exp with gradients: it "
        "must be None, 'reference', 'recompute' or 'chunked'"
    )
