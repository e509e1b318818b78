# SPDX-License-Identifier: Apache-2.0
"""Every token attends to every token."""

import flax.linen as nn

from jdit.attention.heads import attend, split_heads
from jdit.linear import Init, Linear, Linears, xavier
from jdit.norms import RMSNorm
from jdit.typing import Array, Bool, Float


class SelfAttention(nn.Module):
    """Multi-head self-attention with an output projection.

    heads:   number of heads; the width must be a multiple.
    qk_norm: RMS-normalise queries and keys per head (as in SD3).
    qkv_bias: whether the projection to queries, keys and values has a bias.
    rotary:  cosines and sines of `rotary_table`, or None for no rotation.
    mask:    which tokens are real, or None if all are.
    """

    heads: int
    qk_norm: bool = False
    qkv_bias: bool = True
    kernel_init: Init = xavier

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        rotary: tuple[Array, Array] | None = None,
        mask: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        qkv = Linears(dim, self.qkv_bias, self.kernel_init, name="qkv")(x)
        # Split, then turn: the gradient is one concatenation, not three padded sums.
        q, k, v = (split_heads(part, self.heads) for part in qkv)
        if self.qk_norm:
            q, k = RMSNorm(name="q_norm")(q), RMSNorm(name="k_norm")(k)
        x = attend(q, k, v, mask=mask, rotary=rotary)
        return Linear(dim, kernel_init=self.kernel_init, name="out")(x)
