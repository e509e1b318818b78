# SPDX-License-Identifier: Apache-2.0
"""Blocks in which groups of tokens and their latents keep to themselves, or meet."""

from dataclasses import dataclass
from math import sqrt
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.attention import CrossAttention, SelfAttention
from jdit.blocks.prenorm import PreNorm
from jdit.linear import Mlp, call, exact_gelu, xavier
from jdit.norms import LayerNorm
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params


def apart(x: Float[Array, "b n d"], groups: int) -> Float[Array, "c m d"]:
    """Each group as a row of its own, `c = b groups`."""
    return rearrange(x, "b (t m) d -> (b t) m d", t=groups)


def together(x: Float[Array, "c m d"], groups: int) -> Float[Array, "b n d"]:
    """The inverse of `apart`."""
    return rearrange(x, "(b t) m d -> b (t m) d", t=groups)


def _redrawn(params: Params, limits: dict[str, float]) -> Params:
    """Kernels drawn from Glorot's uniform distribution, drawn up to other limits."""
    scaled = {
        name: {
            **params[name],
            "kernel": params[name]["kernel"]
            * (limit / sqrt(6 / sum(params[name]["kernel"].shape))),
        }
        for name, limit in limits.items()
    }
    return {**params, **scaled}


def _limit(dim: int, *fans: int) -> float:
    """What Keras makes of Glorot for a kernel with an axis for heads."""
    return sqrt(6 / (dim * sum(fans)))


@dataclass(frozen=True)
class Grouped(PreNorm):
    """`PreNorm` whose tokens attend within their group only.

    Tokens come group after group, `b (t m) d`; groups: t. Kernels start as Keras starts
    those of its `MultiHeadAttention` and `Dense`.
    """

    groups: int = 1

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return SelfAttention(self.heads, False, self.qkv_bias)
        return Mlp(int(self.dim * self.mlp_ratio), exact_gelu, xavier)

    def init(self, key: Key) -> Params:
        params, each = super().init(key), self.dim // self.heads
        limits = {
            "qkv": _limit(self.dim, self.heads, each),
            "out": _limit(self.heads, self.dim, each),
        }
        return {**params, "attention": _redrawn(params["attention"], limits)}

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        x = super().output(name, params, apart(x, self.groups), context)
        return together(x, self.groups)


@dataclass(frozen=True)
class Exchange:
    """`x + attention(norm(x), norm(y))` within groups: read, or write (FIT, section 2).

    x is the stream, y is `context.extra["other"]`, both group after group. Reading
    latents also attend to the tokens of the conditions, `context.text`.

    dim: width of x; other: of y. heads, width: of the attention, whose width is the
    smaller of the two in FIT. condition_heads: of the attention to the conditions, of
    width `dim`; 0 if there is none. eps: of all norms.
    """

    dim: int
    other: int
    heads: int
    width: int
    groups: int
    condition_heads: int = 0
    eps: float = 1e-6

    @property
    def branches(self) -> tuple[str, ...]:
        return ("exchange", "cross") if self.condition_heads else ("exchange",)

    def _attention(self, name: str) -> CrossAttention:
        if name == "exchange":
            return CrossAttention(self.heads, self.width)
        return CrossAttention(self.condition_heads)

    def init(self, key: Key) -> Params:
        x, params = jnp.zeros((1, 1, self.dim)), {}
        for name, k in zip(self.branches, jax.random.split(key, 2), strict=False):
            own = name == "exchange"
            y = jnp.zeros((1, 1, self.other if own else self.dim))
            module = self._attention(name)
            heads, width = module.heads, self.width if own else self.dim
            limits = {
                "q": _limit(self.dim, heads, width // heads),
                "kv": _limit(y.shape[-1], heads, width // heads),
                "out": _limit(heads, self.dim, width // heads),
            }
            params[name] = {
                "norm": LayerNorm(self.eps).init(k, x)["params"],
                "other_norm": LayerNorm(self.eps).init(k, y)["params"],
                **_redrawn(module.init(k, x, y)["params"], limits),
            }
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        groups, y = 1, cast(Array, context.text)
        if name == "exchange":
            groups, y = self.groups, context.extra["other"]
        x = call(LayerNorm(self.eps), params["norm"], x)
        y = call(LayerNorm(self.eps), params["other_norm"], y.astype(x.dtype))
        module = self._attention(name)
        out = call(module, params, apart(x, groups), apart(y, groups))
        return together(out, groups)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        return x + output.astype(x.dtype)
