# SPDX-License-Identifier: Apache-2.0
"""Attention: one function, several implementations."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from jdit.ops.attention import chunked, cudnn, reference
from jdit.ops.attention.reference import Segments
from jdit.ops.platform import on_one_device, platform, spread
from jdit.typing import Array, Bool, Float

Implementation = Literal["reference", "recompute", "chunked", "cudnn", "pallas_tpu"]

_IMPLEMENTATIONS: dict[str, tuple[Any, Any]] = {
    "reference": (reference.attention, reference.attention_with_lse),
    "recompute": (
        jax.checkpoint(reference.attention),
        jax.checkpoint(reference.attention_with_lse),
    ),
    "chunked": (chunked.attention, chunked.attention_with_lse),
    "cudnn": (cudnn.attention, cudnn.attention_with_lse),
}


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    *,
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "b h n k"]:
    """Bidirectional attention, `softmax(q k^T / sqrt(k)) v`.

    k, v: may have fewer heads g, a divisor of h: head i reads group i // (h / g)
        (grouped-query attention; Ainslie et al., 2023).
    mask: which keys are real.
    segments: integers of queries and of keys, which meet where these are equal:
        several images packed in one row.
    implementation:
        "reference"  keeps the softmax for the backward pass: `n m` numbers a head.
        "recompute"  keeps q, k and v only, and computes the softmax again.
        "chunked"    holds the logits of some queries at a time, also then.
        "cudnn"      the fused kernel of an NVIDIA GPU (bfloat16, float16).
        "pallas_tpu" our fused kernels for TPUs; elsewhere interpreted, slowly.
        None         on a TPU "pallas_tpu" where it wins (see `chosen`); else
                     "recompute", or "chunked" from 2,048 x 2,048 logits a head on.

    All but "cudnn" run everywhere, in any dtype, and under every transformation of
    JAX, forward mode too. A query that sees no key gets zeros.

    Raises ValueError for another implementation, where "cudnn" cannot run, and where
    g does not divide h.
    """
    run, _, folds = _functions(q, k, implementation)
    if not folds or q.shape[1] == k.shape[1]:
        return run(q, k, v, mask, segments)
    queries, met = _folded(q, k, segments)
    return _unfolded(run(queries, k, v, mask, met), q)


def attention_with_lse(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    *,
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b h n k"], Float[Array, "b h n"]]:
    """The same, and the float32 log of the sum of `exp(q k^T / sqrt(k))`.

    With it attention over parts of the keys can be joined: each part's output weighs
    `exp(lse)`. A query that sees no key gets -inf. Both results have gradients.

    Raises ValueError as `attention` does, and for "cudnn".
    """
    _, run, folds = _functions(q, k, implementation)
    if not folds or q.shape[1] == k.shape[1]:
        return run(q, k, v, mask, segments)
    queries, met = _folded(q, k, segments)
    out, lse = run(queries, k, v, mask, met)
    return _unfolded(out, q), _unfolded(lse, q)


def chosen(q: Array, k: Array) -> Implementation:
    """What `implementation=None` means for these arrays, or shapes with dtypes.

    On a TPU the kernels win at every shape of `arg_specs` by the compiler's schedule
    (docs/performance.md) but 77 keys on v5e; with fewer than 64 queries or keys
    their tiles would be mostly empty, and heads wider than 256 are not for them. XLA
    cannot divide a kernel: on several devices it is taken inside `jax.shard_map` over
    all axes, and where `jdit.ops.platform.spread_over` says how arrays are split.
    """
    enough = min(q.shape[-2], k.shape[-2]) >= 64 and q.dtype == k.dtype
    narrow = q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    dtypes = jnp.bfloat16, jnp.float32
    whole = on_one_device() or spread() is not None
    if platform() == "tpu" and enough and narrow and q.dtype in dtypes and whole:
        return "pallas_tpu"
    long = q.shape[-2] * k.shape[-2] >= chunked.LONG
    return "chunked" if long else "recompute"


def _functions(
    q: Array, k: Array, implementation: str | None
) -> tuple[Callable[..., Any], Callable[..., Any], bool]:
    """Without and with log-sum-exp, and whether they want as many heads of keys."""
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"k has {k.shape[1]} heads, but their number must divide q's {q.shape[1]}"
        )
    implementation = implementation or chosen(q, k)
    if implementation == "pallas_tpu":
        from jdit.ops.attention import pallas_tpu  # a second of import, for TPUs alone

        interpret = platform() != "tpu"
        run = partial(pallas_tpu.attention, interpret=interpret)
        both = partial(pallas_tpu.attention_with_lse, interpret=interpret)
        return run, both, False
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}, but it must be None, "
            "'reference', 'recompute', 'chunked', 'cudnn' or 'pallas_tpu'"
        )
    return *_IMPLEMENTATIONS[implementation], True


def _folded(q: Array, k: Array, segments: Any) -> tuple[Array, Any]:
    """The queries of heads that share keys, one after another in one head."""
    sharing = q.shape[1] // k.shape[1]
    if segments is not None:
        segments = repeat(segments[0], "b n -> b (r n)", r=sharing), segments[1]
    return rearrange(q, "b (g r) n k -> b g (r n) k", r=sharing), segments


def _unfolded(x: Array, q: Array) -> Array:
    return rearrange(x, "b g (r n) ... -> b (g r) n ...", n=q.shape[-2])
