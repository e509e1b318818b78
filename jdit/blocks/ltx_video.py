# SPDX-License-Identifier: Apache-2.0
"""LTX-Video's block: adaLN-single with RMS norms, also across the heads."""

from dataclasses import dataclass

import flax.linen as nn

from jdit.blocks.pixart import AdaLNSingle
from jdit.blocks.wan import WidelyNormed
from jdit.linear import Mlp
from jdit.norms import rms_norm
from jdit.stack import Context
from jdit.typing import Array, Float


@dataclass(frozen=True)
class LTXBlock(AdaLNSingle):
    """Attention, attention to text, MLP (LTX-Video, HaCohen et al., 2024, figure 5).

    PixArt's block with RMS norms without weights where that has layer norms, rotary
    positions, and queries and keys that are RMS-normalised over all heads at once.

    dim, heads, mlp_ratio: as in DiT.
    """

    def _module(self, name: str) -> nn.Module:
        if name == "mlp":
            return Mlp(int(self.dim * self.mlp_ratio))
        return WidelyNormed(self.heads, eps=1e-5)

    def _norm(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return rms_norm(x)

    def _inputs(self, name: str, context: Context) -> tuple:
        if name == "cross":
            return context.text, None, context.mask
        return (None, context.rotary) if name == "attention" else ()
