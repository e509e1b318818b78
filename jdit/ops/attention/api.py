# SPDX-License-Identifier: Apache-2.0
"""Attention: one function, several implementations."""

from typing import Literal

import jax

from jdit.ops.attention import chunked, cudnn, reference
from jdit.typing import Array, Bool, Float

Implementation = Literal["reference", "recompute", "chunked", "cudnn"]

LONG = 2048**2
"""From this many logits a head on, attention is done in chunks."""

_IMPLEMENTATIONS = {
    "reference": reference.attention,
    "recompute": jax.checkpoint(reference.attention),
    "chunked": chunked.attention,
    "cudnn": cudnn.attention,
}


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    *,
    mask: Bool[Array, "b m"] | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "b h n k"]:
    """Bidirectional attention; `mask` says which keys are real.

    implementation:
        "reference"  keeps the softmax for the backward pass: `n m` numbers a head.
        "recompute"  keeps q, k and v only, and computes the softmax again.
        "chunked"    holds the logits of some queries at a time, also then.
        "cudnn"      the fused kernel of an NVIDIA GPU (bfloat16, float16).
        None         "recompute", or "chunked" from 2,048 x 2,048 logits a head on.

    All but "cudnn" run everywhere, in any dtype, and under every transformation of
    JAX, forward mode too. An image whose keys are all masked gets zeros.

    Raises ValueError for another implementation, and where "cudnn" cannot run.
    """
    if implementation is None:
        long = q.shape[-2] * k.shape[-2] >= LONG
        implementation = "chunked" if long else "recompute"
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}, but it must be None, "
            "'reference', 'recompute', 'chunked' or 'cudnn'"
        )
    return _IMPLEMENTATIONS[implementation](q, k, v, mask)
