# SPDX-License-Identifier: Apache-2.0
"""PixArt's block: one modulation for all layers, and attention to text between."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.attention import CrossAttention, Rotary, SelfAttention, attend, split_heads
from jdit.conditioning.time import normal
from jdit.linear import Linear, Linears, Mlp, call, leaf, zeros
from jdit.norms import LayerNorm, layer_norm, modulate, per_token
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params


@dataclass(frozen=True)
class Compression:
    """Keys and values of the last layers are fewer (PixArt-Sigma, section 3.3).

    ratio: `ratio x ratio` tokens become one, by a convolution of each channel that
        starts as their average. layers: how many layers do so, counted from the last.
    """

    ratio: int = 2
    layers: int = 14

    def __post_init__(self) -> None:
        for name in ("ratio", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"compression.{name} is {getattr(self, name)}, but it must be at "
                    "least 1"
                )


class Merge(nn.Module):
    """Each `ratio x ratio` tokens of a grid become one; then a layer norm.

    shape: the grid of tokens; what a ratio leaves over at its end is dropped.
    Parameters `filter` (`ratio^2 d`, starts as the average), `bias` (`d`), `norm`.
    """

    shape: tuple[int, int]
    ratio: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
        r, d = self.ratio, x.shape[-1]
        average = nn.initializers.constant(1 / r**2)
        taps = leaf(self, "filter", average, (r * r, d)).astype(x.dtype)
        height, width = (size // r for size in self.shape)
        x = rearrange(x, "b (h w) d -> b h w d", h=self.shape[0])
        x = x[:, : height * r, : width * r]
        x = rearrange(x, "b (h p) (w q) d -> b (h w) (p q) d", p=r, q=r)
        x = jnp.sum(x * taps, -2) + leaf(self, "bias", zeros, (d,)).astype(x.dtype)
        return LayerNorm(1e-5, name="norm")(x)


class CompressedAttention(nn.Module):
    """Self-attention whose keys and values are those of merged tokens.

    Parameters `qkv`, `out` as in `SelfAttention`, and `merge`, which keys and values
    share. It needs all tokens of the grid, so it cannot run on a subset of them.
    """

    heads: int
    shape: tuple[int, int]
    ratio: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rotary: Rotary | None = None
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        q, k, v = Linears(dim, name="qkv")(x)
        merge = Merge(self.shape, self.ratio, name="merge")
        q, k, v = (split_heads(part, self.heads) for part in (q, merge(k), merge(v)))
        return Linear(dim, name="out")(attend(q, k, v))


class Caption(nn.Module):
    """Tokens of a text encoder to width `dim`: linear, tanh-GELU, linear."""

    dim: int

    @nn.compact
    def __call__(self, text: Float[Array, "b m e"]) -> Float[Array, "b m d"]:
        hidden = nn.gelu(Linear(self.dim, kernel_init=normal, name="in")(text))
        return Linear(self.dim, kernel_init=normal, name="out")(hidden)


def six_vectors(params: Params, vector: Float[Array, "b *n d"]) -> dict[str, Any]:
    """What adaLN-single tells all layers: one linear map of SiLU of the vector.

    {"modulation", "gate"} of {"attention", "mlp"}, for `Context.extra`.
    """
    dim = vector.shape[-1]
    six = call(Linear(6 * dim), params, nn.silu(vector))
    parts = jnp.split(six, (2 * dim, 3 * dim, 5 * dim), -1)
    named = [("modulation", "attention"), ("gate", "attention")]
    named += [("modulation", "mlp"), ("gate", "mlp")]
    extra: dict[str, Any] = {"modulation": {}, "gate": {}}
    for (kind, branch), part in zip(named, parts, strict=True):
        extra[kind][branch] = part
    return extra


@dataclass(frozen=True)
class AdaLNSingle:
    """PixArt-alpha's block: attention, attention to text, MLP (section 2.3, figure 4).

    Shift, scale and gate of attention and MLP are a table of this layer plus vectors
    that all layers share (`six_vectors`). Attention to text has neither norm nor gate,
    and its output projection starts at zero.

    dim, heads, mlp_ratio: as in DiT. branches: without "cross", no text is read.
    merge_keys: (grid of tokens, ratio) where keys and values are merged, else None.
    """

    dim: int
    heads: int
    mlp_ratio: float = 4.0
    branches: tuple[str, ...] = ("attention", "cross", "mlp")
    merge_keys: tuple[tuple[int, int], int] | None = None

    def _module(self, name: str) -> nn.Module:
        if name == "cross":
            return CrossAttention(self.heads)
        if name == "mlp":
            return Mlp(int(self.dim * self.mlp_ratio))
        if self.merge_keys is not None:
            return CompressedAttention(self.heads, *self.merge_keys)
        return SelfAttention(self.heads)

    def _norm(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return layer_norm(x)

    def _inputs(self, name: str, context: Context) -> tuple:
        """What a branch's module reads beside the stream."""
        return (context.text, context.mask) if name == "cross" else ()

    def init(self, key: Key) -> Params:
        count = self.merge_keys[0] if self.merge_keys else (1, 1)
        x = jnp.zeros((1, count[0] * count[1], self.dim))
        params: Params = {}
        keys = jax.random.split(key, len(self.branches))
        for name, k in zip(self.branches, keys, strict=True):
            args = (x, x) if name == "cross" else (x,)
            own = dict(self._module(name).init(k, *args)["params"])
            if name == "cross":
                own["out"] = jax.tree.map(jnp.zeros_like, own["out"])
            else:
                for offset, (part, size) in enumerate((("modulation", 2), ("gate", 1))):
                    noise = jax.random.normal(
                        jax.random.fold_in(k, offset), (size * self.dim,)
                    )
                    own[part] = {"table": noise * self.dim**-0.5}
            params[name] = own
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        if name != "cross":
            shared = context.extra["modulation"][name]
            table = params["modulation"]["table"].astype(shared.dtype)
            shift, scale = jnp.split((shared + table).astype(x.dtype), 2, -1)
            x = modulate(self._norm(x), shift, scale)
        return call(self._module(name), params, x, *self._inputs(name, context))

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        if name == "cross":
            return x + output.astype(x.dtype)
        shared = context.extra["gate"][name]
        gate = shared + params["gate"]["table"].astype(shared.dtype)
        return x + per_token(gate).astype(x.dtype) * output.astype(x.dtype)


def single_final_init(key: Key, dim: int, features: int) -> Params:
    """Parameters of `single_final_layer`: the linear layer starts at zero."""
    table = jax.random.normal(key, (2 * dim,)) * dim**-0.5
    linear = Linear(features, kernel_init=zeros).init(key, jnp.zeros((1, dim)))
    return {"modulation": {"table": table}, "linear": linear["params"]}


def single_final_layer(
    params: Params,
    x: Float[Array, "b n d"],
    vector: Float[Array, "b *n d"],
    features: int,
) -> Float[Array, "b n e"]:
    """PixArt's read-out: shift and scale are a table plus the vector itself."""
    table = params["modulation"]["table"]
    vector = jnp.concatenate([vector, vector], -1) + table.astype(vector.dtype)
    shift, scale = jnp.split(vector, 2, -1)
    x = modulate(layer_norm(x), shift.astype(x.dtype), scale.astype(x.dtype))
    return call(Linear(features), params["linear"], x)
