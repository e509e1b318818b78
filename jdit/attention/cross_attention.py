# SPDX-License-Identifier: Apache-2.0
"""Tokens attend to the tokens of a condition."""

import flax.linen as nn

from jdit.attention.heads import attend, split_heads
from jdit.linear import Linear, Linears
from jdit.typing import Array, Bool, Float


class CrossAttention(nn.Module):
    """Multi-head attention of `b n d` to `b m e`, with an output projection.

    Parameters `q` (`d w`), `kv` (`e 2w`: keys, then values) and `out` (`w d`). An
    image whose condition is all masked gets the output's bias alone.

    heads: number of heads; the width must be a multiple.
    width: w, of queries, keys and values; None takes d.
    """

    heads: int
    width: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        text: Float[Array, "b m e"],
        mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        width = self.width or dim
        q = Linear(width, name="q")(x)
        k, v = Linears(width, parts=2, name="kv")(text.astype(x.dtype))
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        return Linear(dim, name="out")(attend(q, k, v, mask=mask))
