# SPDX-License-Identifier: Apache-2.0
"""Blocks that refine the tokens of a text before they meet the image's."""

from dataclasses import dataclass

import flax.linen as nn
import jax

from jdit.attention import SelfAttention
from jdit.blocks.joint import gated, init_modulation
from jdit.blocks.prenorm import PreNorm
from jdit.linear import Mlp, call
from jdit.norms import LayerNorm
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params


@dataclass(frozen=True)
class Refiner(PreNorm):
    """`x + gate f(norm(x))` for f = attention, MLP: HunyuanVideo's token refiner.

    Norms have weights, the MLP's activation is SiLU, and each gate is linear in SiLU of
    the conditioning vector and starts at zero. context.mask: which tokens are real;
    published code lets padding read the first token alone, here it reads all real
    ones. Nothing reads padding.

    dim, heads, mlp_ratio, qkv_bias, eps: as in `PreNorm`.
    Source: diffusers 0.42, `HunyuanVideoIndividualTokenRefinerBlock`.
    """

    qkv_bias: bool = True
    eps: float = 1e-6

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return SelfAttention(self.heads, qkv_bias=self.qkv_bias)
        return Mlp(int(self.dim * self.mlp_ratio), nn.silu)

    def init(self, key: Key) -> Params:
        params = super().init(key)
        for name, k in zip(self.branches, jax.random.split(key, 2), strict=True):
            params[name]["gate"] = init_modulation(k, self.dim, 1)
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        x = call(LayerNorm(self.eps), params["norm"], x)
        seen = (None, context.mask) if name == "attention" else ()
        return call(self._module(name), params, x, *seen)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        return gated(params, x, output, context.vector)
