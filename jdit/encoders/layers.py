# SPDX-License-Identifier: Apache-2.0
"""The layer that every encoder stacks, put together from parts, and the stack."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from jdit.attention.heads import split_heads
from jdit.linear import Linear, leaf
from jdit.norms import LayerNorm, RMSNorm, rms_norm
from jdit.typing import Array, Bool, Float, Key, Params

Activation = Callable[[jax.Array], jax.Array]
Norm = Callable[..., nn.Module]
Order = Literal["pre", "post", "sandwich"]

relu, silu = jax.nn.relu, jax.nn.silu


def gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """The exact GELU, `x Phi(x)` (Hendrycks and Gimpel, 2016, section 2)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """GELU by a hyperbolic tangent (ibid.): T5 v1.1, Gemma, SigLIP."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """GELU by a sigmoid, `x sigmoid(1.702 x)` (ibid.): OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


class OffsetRMSNorm(nn.Module):
    """`rms_norm(x) (1 + scale)`, the product in float32 (Gemma; parameter `scale`)."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = leaf(self, "scale", nn.initializers.zeros, (x.shape[-1],))
        y = rms_norm(x.astype(jnp.float32), self.eps)
        return (y * (1 + scale)).astype(x.dtype)


def norm_of(kind: type[nn.Module], eps: float) -> Norm:
    """A norm whose name is still open, for `Layer`."""
    return partial(kind, eps=eps)


class Attention(nn.Module):
    """Attention as text encoders have it; parameters `q`, `k`, `v`, `out`.

    heads, width: heads of queries and their width. groups: heads of keys and values,
        a divisor of `heads` (Ainslie et al., 2023); None for as many.
    bias, out_bias: whether the projections into heads, and out of them, have biases.
    scale: of the logits; None is `1 / sqrt(width)`. T5 has 1.
    softcap: logits become `softcap tanh(logits / softcap)` (Gemma 2, section 2).

    Logits and softmax are float32.
    """

    heads: int
    width: int
    groups: int | None = None
    bias: bool = True
    out_bias: bool = True
    scale: float | None = None
    softcap: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        allowed: Bool[Array, "#b 1 #n m"] | None = None,
        bias: Float[Array, "1 h n m"] | None = None,
        turn: Activation | None = None,
        over: Float[Array, "b m d"] | None = None,
    ) -> Float[Array, "b n d"]:
        """allowed: which keys a query sees. bias: added to the logits. turn: applied
        to queries and keys (their positions). over: what keys are made of, x if None.
        """
        groups = self.groups or self.heads
        keys = x if over is None else over

        def project(name: str, heads: int, x: Array) -> Array:
            return split_heads(
                Linear(heads * self.width, self.bias, name=name)(x), heads
            )

        q = project("q", self.heads, x)
        k, v = (project(name, groups, keys) for name in "kv")
        if turn is not None:
            q, k = turn(q), turn(k)
        if groups != self.heads:
            k, v = (jnp.repeat(y, self.heads // groups, 1) for y in (k, v))
        scale = self.width**-0.5 if self.scale is None else self.scale
        logits = jnp.matmul(
            q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32
        ) * jnp.float32(scale)
        if bias is not None:
            logits = logits + bias
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        if allowed is not None:
            logits = jnp.where(allowed, logits, jnp.finfo(jnp.float32).min)
        out = jnp.matmul(jax.nn.softmax(logits, -1).astype(v.dtype), v)
        out = rearrange(out, "b h n k -> b n (h k)")
        return Linear(x.shape[-1], self.out_bias, name="out")(out)


class Mlp(nn.Module):
    """`out(activation(in(x)))`, or gated: `out(activation(gate(x)) up(x))`.

    Gated as in Shazeer (2020), equation 6.
    """

    hidden: int
    activation: Activation = gelu
    gated: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        def to(features: int, name: str, x: Array) -> Array:
            return Linear(features, self.bias, name=name)(x)

        if self.gated:
            y = self.activation(to(self.hidden, "gate", x)) * to(self.hidden, "up", x)
        else:
            y = self.activation(to(self.hidden, "in", x))
        return to(x.shape[-1], "out", y)


class Layer(nn.Module):
    """Attention and an MLP, each a residual branch `x + branch(x)`.

    order: where the norms are. "pre" on the way into a branch, "post" after the sum
        (BERT), "sandwich" on the way in and out (Gemma 2).
    scaled: a learned factor per channel on what leaves a branch (Touvron et al., 2021,
        equation 9); parameters `attention_scale` and `mlp_scale`.
    """

    attention: Attention
    mlp: Mlp
    norm: Norm
    order: Order = "pre"
    scaled: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        allowed: Bool[Array, "#b 1 #n n"] | None = None,
        bias: Float[Array, "1 h n n"] | None = None,
        turn: Activation | None = None,
    ) -> Float[Array, "b n d"]:
        x = self._add(x, "attention", lambda y: self.attention(y, allowed, bias, turn))
        return self._add(x, "mlp", self.mlp)

    def _add(self, x: Array, name: str, branch: Callable[[Array], Array]) -> Array:
        norm = self.norm(name=f"{name}_norm")
        y = branch(x if self.order == "post" else norm(x))
        if self.order == "sandwich":
            y = self.norm(name=f"{name}_out_norm")(y)
        if self.scaled:
            ones = nn.initializers.ones
            y = y * leaf(self, f"{name}_scale", ones, (x.shape[-1],)).astype(y.dtype)
        return norm(x + y) if self.order == "post" else x + y


def init_layers(layer: Layer, key: Key, depth: int, dim: int) -> Params:
    """Parameters of `depth` layers, stacked along a new first axis."""
    x = jnp.zeros((1, 1, dim))
    return jax.vmap(lambda k: layer.init(k, x)["params"])(jax.random.split(key, depth))


Step = Callable[[Params, Array, Any], Array]


def run(
    step: Step, params: Params, x: Array, own: Any = None, stop: int | None = None
) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"]]:
    """Scan `step(layer's params, x, layer's own)` over the first `stop` layers.

    Returns x after the last of them, and x after each one. With a `stop` before the
    end, layers are read in place, so that the weights in use are not copied.
    """
    depth = jax.tree.leaves(params)[0].shape[0]

    def layer(x: Array, xs: tuple) -> tuple[Array, Array]:
        x = step(xs[0], x, xs[1])
        return x, x

    def indexed(x: Array, i: Array) -> tuple[Array, Array]:
        return layer(x, jax.tree.map(lambda leaf: leaf[i], (params, own)))

    if stop is None or stop == depth:
        return lax.scan(layer, x, (params, own))
    return lax.scan(indexed, x, jnp.arange(stop))


__all__ = [
    "Activation",
    "Attention",
    "Layer",
    "LayerNorm",
    "Mlp",
    "Norm",
    "OffsetRMSNorm",
    "Order",
    "RMSNorm",
    "gelu",
    "gelu_tanh",
    "init_layers",
    "norm_of",
    "quick_gelu",
    "relu",
    "run",
    "silu",
]
