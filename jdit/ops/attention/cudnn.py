# SPDX-License-Identifier: Apache-2.0
"""Attention by cuDNN's fused kernel, through JAX."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.ops.attention import reference, transformable
from jdit.ops.attention.reference import Segments
from jdit.ops.attention.transformable import Kernels
from jdit.ops.platform import capability, on_one_device, platform, spread
from jdit.typing import Array, Bool, Float


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
) -> Float[Array, "b h n k"]:
    """The reference on an NVIDIA GPU, in bfloat16 or float16.

    Its backward pass runs cuDNN's forward pass again, because what that kept is not to
    be had where forward mode must work too (see `transformable`). A mask or segments
    become `n m` numbers an image. cuDNN does not promise the same bits of gradients
    every time.

    Raises ValueError for other devices, dtypes and head widths, which cuDNN refuses.
    """
    if platform() != "gpu":
        raise ValueError(
            f"implementation is 'cudnn', but the device is {platform()!r}: "
            "it needs an NVIDIA GPU"
        )
    if q.dtype not in (jnp.bfloat16, jnp.float16) or q.shape[-1] % 8:
        raise ValueError(
            f"implementation is 'cudnn', but queries are {q.dtype} with heads of width "
            f"{q.shape[-1]}: it needs bfloat16 or float16 and a multiple of 8"
        )
    kernels = Kernels(_forward, _backward, None if on_one_device() else spread())
    return transformable.attention_with_lse(kernels, q, k, v, mask, segments)[0]


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
        "must be None, 'reference', 'recompute', 'chunked' or 'pallas_gpu'"
    )


def runs(q: Array, k: Array) -> bool:
    """Whether cuDNN takes these, or their shapes, on the GPU at hand, by JAX's checks.

    A mask is not asked for: see `chosen` of `api.py`. From Ampere on.
    """
    return (capability() or (0, 0)) >= (8, 0) and _accepted(
        (q.shape, q.dtype), (k.shape, k.dtype)
    )


@cache
def _accepted(*operands: Any) -> bool:
    q, k = (jax.ShapeDtypeStruct((b, n, h, w), t) for (b, h, n, w), t in operands)
    try:
        jax.eval_shape(_fused, q, k, k)
    except (ValueError, TypeError, RuntimeError, NotImplementedError):
        return False
    return True


def _fused(q: Array, k: Array, v: Array, seen: Array | None = None) -> Array:
    """Heads inside tokens."""
    return jax.nn.dot_product_attention(q, k, v, mask=seen, implementation="cudnn")


def _attend(q: Array, k: Array, v: Array, masks: dict[str, Any]) -> Array:
    """`b g r n k`, as `transformable` has it."""
    groups, n, m = k.shape[1], q.shape[3], k.shape[2]
    seen = reference.visible(masks.get("mask"), masks.get("segments"))
    if seen is not None:
        seen = jnp.broadcast_to(seen, (len(q), 1, n, m))
    inside = rearrange(q, "b g r n k -> b n (g r) k")
    k, v = (rearrange(x, "b g m k -> b m g k") for x in (k, v))
    out = rearrange(_fused(inside, k, v, seen), "b n h k -> b h n k")
    out = reference.silence(out, seen)
    return rearrange(out, "b (g r) n k -> b g r n k", g=groups)


def _forward(
    q: Array, k: Array, v: Array, masks: dict[str, Any]
) -> tuple[Array, Array]:
    return _attend(q, k, v, masks), jnp.zeros(q.shape[:-1], jnp.float32)


def _backward(
    q: Array, k: Array, v: Array, masks: dict[str, Any], *rest: Array
) -> tuple[Array, ...]:
    _, _, d_out, _ = rest  # nobody sees the log-sum-exp

    def attend(q: Array, k: Array, v: Array) -> Array:
        return _attend(q, k, v, masks)

    return jax.vjp(attend, q, k, v)[1](d_out)
