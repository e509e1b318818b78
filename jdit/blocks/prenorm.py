# SPDX-License-Identifier: Apache-2.0
"""Blocks that know of time and conditions only what their tokens tell them."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import SelfAttention
from jdit.linear import Linear, Mlp, call, exact_gelu
from jdit.norms import LayerNorm
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params

normal = nn.initializers.normal(0.02)


@dataclass(frozen=True)
class PreNorm:
    """The ViT's block: `x + f(norm(x))` for f = attention, MLP (Dosovitskiy et al.).

    dim: width; heads: attention heads; mlp_ratio: hidden width of the MLP over dim.
    qkv_bias: whether queries, keys and values have one. eps: of both norms.
    """

    dim: int
    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    eps: float = 1e-5

    branches = ("attention", "mlp")

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return SelfAttention(self.heads, False, self.qkv_bias, normal)
        return Mlp(int(self.dim * self.mlp_ratio), exact_gelu, normal)

    def init(self, key: Key) -> Params:
        x, params = jnp.zeros((1, 1, self.dim)), {}
        for name, k in zip(self.branches, jax.random.split(key, 2), strict=True):
            params[name] = {
                "norm": LayerNorm(self.eps).init(k, x)["params"],
                **self._module(name).init(k, x)["params"],
            }
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        x = call(LayerNorm(self.eps), params["norm"], x)
        return call(self._module(name), params, x)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        return x + output.astype(x.dtype)


@dataclass(frozen=True)
class Joined(PreNorm):
    """`PreNorm`, entered by a linear map of the stream beside a long skip, `2d -> d`.

    The skip is this layer's `context.layer` (Bao et al., 2023).
    """

    def init(self, key: Key) -> Params:
        both = jnp.zeros((1, 2 * self.dim))
        join = Linear(self.dim, kernel_init=normal).init(key, both)["params"]
        return {"enter": join, **super().init(jax.random.fold_in(key, 1))}

    def enter(
        self, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        both = jnp.concatenate([x, context.layer.astype(x.dtype)], -1)
        return call(Linear(self.dim), params, both)
