# SPDX-License-Identifier: Apache-2.0
"""Attention: one function, several implementations."""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from jdit.ops.attention import chunked, cudnn, rates, reference
from jdit.ops.attention.reference import Segments
from jdit.ops.platform import capability, on_one_device, platform, spread
from jdit.typing import Array, Bool, Float

Implementation = Literal[
    "reference", "recompute", "chunked", "cudnn", "pallas_tpu", "pallas_gpu"
]

_IMPLEMENTATIONS: dict[str, tuple[Any, Any]] = {
    "reference": (reference.attention, reference.attention_with_lse),
    "recompute": (
        jax.checkpoint(reference.attention),
        jax.checkpoint(reference.attention_with_lse),
    ),
    "chunked": (chunked.attention, chunked.attention_with_lse),
    "cudnn": (cudnn.attention, cudnn.attention_with_lse),
}

_KERNELS = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}
"""Modules that take a second to import, and where they need not be interpreted."""


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
        "pallas_gpu" our fused kernels for NVIDIA GPUs, written for Hopper, which no
                     GPU has run yet; elsewhere interpreted, slowly.
        None         what the environment's JDIT_ATTENTION names, if anything; else on
                     a TPU "pallas_tpu", on a GPU "cudnn", where they win (see
                     `chosen`); else "recompute", or "chunked" from 2,048 x 2,048
                     logits a head on.

    All but "cudnn" run everywhere; "pallas_gpu" takes bfloat16, float16 and float32 and
    heads up to 256 wide. All run under every transformation of JAX, forward mode too.
    A query that sees no key gets zeros.

    Raises ValueError for another implementation, where "cudnn" or "pallas_gpu" cannot
    run, and where g does not divide h.
    """
    masked = mask is not None or segments is not None
    run, _, folds = _functions(q, k, implementation, masked=masked)
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
    _, run, folds = _functions(q, k, implementation, lse=True)
    if not folds or q.shape[1] == k.shape[1]:
        return run(q, k, v, mask, segments)
    queries, met = _folded(q, k, segments)
    out, lse = run(queries, k, v, mask, met)
    return _unfolded(out, q), _unfolded(lse, q)


def chosen(
    q: Array, k: Array, *, masked: bool = False, lse: bool = False
) -> Implementation:
    """What `implementation=None` means for these arrays, or shapes with dtypes.

    masked: with a mask or segments. lse: with the log-sum-exp.

    On a TPU the kernels win at every shape of `arg_specs` but 77 keys on v5e, by the
    compiler's schedule (docs/performance.md), forward and backward. On a GPU the
    published rates of `rates.py` decide, in bfloat16 and float16, among what is
    verified: "cudnn" wherever it runs, but not for masks, of which it wants `n m`
    numbers an image, nor for a log-sum-exp. "pallas_gpu" would take those and what
    cuDNN refuses, on Hopper, but is off until a GPU has run its tests
    (`rates.VERIFIED`). No time was measured here.

    With fewer than 64 queries or keys tiles would be mostly empty, and heads wider than
    256 are not for kernels. XLA cannot divide a kernel: on several devices it is taken
    inside `jax.shard_map` over all axes, and where `jdit.ops.platform.spread_over` says
    how arrays are split.
    """
    n, m, width = q.shape[-2], k.shape[-2], q.shape[-1]
    fits = min(n, m) >= 64 and width % 8 == 0 and width <= 256 and q.dtype == k.dtype
    if fits and (on_one_device() or spread() is not None):
        half = q.dtype in (jnp.bfloat16, jnp.float16)
        if platform() == "tpu" and q.dtype in (jnp.bfloat16, jnp.float32):
            return "pallas_tpu"
        if platform() == "gpu" and half:
            for name in rates.ranked((n * m) ** 0.5, width):
                if name == "cudnn" and not (masked or lse) and cudnn.runs(q, k):
                    return "cudnn"
                if name == "pallas_gpu" and (capability() or (0, 0))[0] == 9:
                    return "pallas_gpu"
    return "chunked" if n * m >= chunked.LONG else "recompute"


def _functions(
    q: Array, k: Array, implementation: str | None, **asked: bool
) -> tuple[Callable[..., Any], Callable[..., Any], bool]:
    """Without and with log-sum-exp, and whether they want as many heads of keys."""
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"k has {k.shape[1]} heads, but their number must divide q's {q.shape[1]}"
        )
    implementation = implementation or os.environ.get("JDIT_ATTENTION")
    implementation = implementation or chosen(q, k, **asked)
    if implementation in _KERNELS:
        module = import_module(f"jdit.ops.attention.{implementation}")
        interpret = platform() != _KERNELS[implementation]
        run = partial(module.attention, interpret=interpret)
        both = partial(module.attention_with_lse, interpret=interpret)
        return run, both, False
    if implementation not in _IMPLEMENTATIONS:
        *others, last = map(repr, get_args(Implementation))
        raise ValueError(
            f"implementation is {implementation!r}, but it must be None, "
            f"{', '.join(others)} or {last}"
        )
    return *_IMPLEMENTATIONS[implementation], implementation != "cudnn"


def _folded(q: Array, k: Array, segments: Any) -> tuple[Array, Any]:
    """The queries of heads that share keys, one after another in one head."""
    sharing = q.shape[1] // k.shape[1]
    if segments is not None:
        segments = repeat(segments[0], "b n -> b (r n)", r=sharing), segments[1]
    return rearrange(q, "b (g r) n k -> b g (r n) k", r=sharing), segments


def _unfolded(x: Array, q: Array) -> Array:
    return rearrange(x, "b g (r n) ... -> b (g r) n ...", n=q.shape[-2])
