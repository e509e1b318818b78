# SPDX-License-Identifier: Apache-2.0
"""HunyuanDiT's blocks: layer norms of queries and keys, long skips joined by a norm."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import Rotary, attend, split_heads, turn
from jdit.linear import Linear, Linears, Mlp, call, leaf, zeros
from jdit.norms import LayerNorm, per_token
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params


class NormedAttention(nn.Module):
    """Self-attention whose queries and keys get a layer norm per head.

    Parameters `qkv`, `q_norm`, `k_norm`, `out`. heads: the width must be a multiple.
    """

    heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rotary: Rotary | None = None
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        parts = Linears(dim, name="qkv")(x)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        q, k = LayerNorm(name="q_norm")(q), LayerNorm(name="k_norm")(k)
        return Linear(dim, name="out")(attend(q, k, v, rotary=rotary))


class NormedCrossAttention(nn.Module):
    """Attention to text with layer norms per head; positions turn the queries alone.

    Parameters `q`, `kv`, `q_norm`, `k_norm`, `out`.
    """

    heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        text: Float[Array, "b m e"],
        rotary: Rotary | None = None,
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        q = split_heads(Linear(dim, name="q")(x), self.heads)
        parts = Linears(dim, parts=2, name="kv")(text.astype(x.dtype))
        k, v = (split_heads(part, self.heads) for part in parts)
        q, k = LayerNorm(name="q_norm")(q), LayerNorm(name="k_norm")(k)
        return Linear(dim, name="out")(attend(turn(q, rotary), k, v))


class AttentionPool(nn.Module):
    """One vector for all tokens: their mean attends to itself and to them.

    Parameters `position` (`m+1 e`: learned, of the mean and of each token), `q`, `kv`,
    `out`. features: of the result. heads: 8 as published.
    """

    features: int
    heads: int = 8

    @nn.compact
    def __call__(self, text: Float[Array, "b m e"]) -> Float[Array, "b d"]:
        width = text.shape[-1]
        x = jnp.concatenate([text.mean(1, keepdims=True), text], 1)
        init = nn.initializers.normal(width**-0.5)
        x = x + leaf(self, "position", init, x.shape[1:]).astype(x.dtype)
        q = split_heads(Linear(width, name="q")(x[:, :1]), self.heads)
        parts = Linears(width, parts=2, name="kv")(x)
        k, v = (split_heads(part, self.heads) for part in parts)
        return Linear(self.features, name="out")(attend(q, k, v))[:, 0]


@dataclass(frozen=True)
class HunyuanBlock:
    """Attention, attention to text, MLP; each after a learned layer norm, ungated.

    Time reaches the block as a shift after the first norm, linear in SiLU of the
    conditioning vector, which starts at zero (HunyuanDiT, section 2.1).

    dim, heads: as in DiT. hidden: width of the MLP. text: width of the text's tokens.
    """

    dim: int
    heads: int
    hidden: int
    text: int

    branches = ("attention", "cross", "mlp")

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return NormedAttention(self.heads)
        if name == "cross":
            return NormedCrossAttention(self.heads)
        return Mlp(self.hidden)

    def init(self, key: Key) -> Params:
        x, text = jnp.zeros((1, 1, self.dim)), jnp.zeros((1, 1, self.text))
        params: Params = {}
        for name, k in zip(self.branches, jax.random.split(key, 3), strict=True):
            args = (x, text) if name == "cross" else (x,)
            norm = LayerNorm().init(k, x)["params"]
            params[name] = {"norm": norm, **self._module(name).init(k, *args)["params"]}
        shift = Linear(self.dim, kernel_init=zeros).init(key, x)["params"]
        params["attention"]["shift"] = shift
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        x = call(LayerNorm(), params["norm"], x)
        if name == "mlp":
            return call(self._module(name), params, x)
        if name == "cross":
            args = (context.text, context.rotary)
            return call(self._module(name), params, x, *args)
        vector = nn.silu(context.vector)
        shift = call(Linear(self.dim), params["shift"], vector)
        x = x + per_token(shift).astype(x.dtype)
        return call(self._module(name), params, x, context.rotary)

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
class SkipBlock(HunyuanBlock):
    """A block of the second half: the stream of an early layer joins before it.

    That stream is `context.layer`: concatenated, normed, and mapped to the width.
    """

    def init(self, key: Key) -> Params:
        both = jnp.zeros((1, 1, 2 * self.dim))
        join = {
            "norm": LayerNorm().init(key, both)["params"],
            "linear": Linear(self.dim).init(key, both)["params"],
        }
        return super().init(key) | {"enter": join}

    def enter(
        self, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        both = jnp.concatenate([x, context.layer.astype(x.dtype)], -1)
        both = call(LayerNorm(), params["norm"], both)
        return call(Linear(self.dim), params["linear"], both)
