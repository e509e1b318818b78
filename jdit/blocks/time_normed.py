# SPDX-License-Identifier: Apache-2.0
"""Blocks whose norms, and nothing else, are told the time."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import SelfAttention
from jdit.blocks.convolutional import depthwise
from jdit.conv import Depthwise
from jdit.linear import Init, Linear, Linears, call, exact_gelu, leaf, zeros
from jdit.norms import layer_norm
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params

normal = nn.initializers.normal(0.02)
ones = nn.initializers.ones


class Between(nn.Module):
    """A vector that goes from `clean` to `noisy` as time runs.

    `clean + sigmoid((1 + rate) time + shift) (noisy - clean)`, all of them learned per
    channel (DiMR's time-dependent norms).
    """

    dim: int
    start: Init = ones

    @nn.compact
    def __call__(self, time: Float[Array, " b"]) -> Float[Array, "b d"]:
        shape = (self.dim,)
        noisy, clean = (leaf(self, n, self.start, shape) for n in ("noisy", "clean"))
        rate, shift = (leaf(self, n, zeros, shape) for n in ("rate", "shift"))
        share = nn.sigmoid(time[:, None] * (1 + rate) + shift)
        return clean + share * (noisy - clean)


class TimeRMSNorm(nn.Module):
    """`x / (rms(x) + 1e-8)`, times a scale that is `Between`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], time: Float[Array, " b"]
    ) -> Float[Array, "b n d"]:
        scale = Between(x.shape[-1], name="scale")(time)
        y = x.astype(jnp.float32)
        size = jnp.sqrt(jnp.square(y).mean(-1, keepdims=True))
        return (scale[:, None] * y / (size + 1e-8)).astype(x.dtype)


class TimeLayerNorm(nn.Module):
    """Layer norm with a scale and a bias that are `Between` (TD-LN)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], time: Float[Array, " b"]
    ) -> Float[Array, "b n d"]:
        scale = Between(x.shape[-1], name="scale")(time)
        bias = Between(x.shape[-1], zeros, name="bias")(time)
        y = layer_norm(x.astype(jnp.float32), 1e-5)
        return (scale[:, None] * y + bias[:, None]).astype(x.dtype)


class GatedMlp(nn.Module):
    """`out(gelu(a) b)` with a, b the halves of `in` (GEGLU; Shazeer, 2020)."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        a, b = Linears(self.hidden, kernel_init=normal, parts=2, name="in")(x)
        return Linear(x.shape[-1], kernel_init=normal, name="out")(exact_gelu(a) * b)


@dataclass(frozen=True)
class TimeNormed:
    """A block of one resolution: attention or a convolution, then a gated MLP.

    With heads it is a transformer's, both branches behind a `TimeRMSNorm`; with heads
    None it is a ConvNeXt's, whose depthwise convolution reads the stream as it is. The
    number that the time became is `context.vector`, `b 1`.

    dim, hidden: width of the stream and of the MLP. grid: rows and columns of the
    tokens (read by the convolution). kernel: size of the convolution.
    """

    dim: int
    hidden: int
    heads: int | None
    grid: tuple[int, int]
    kernel: int = 7

    @property
    def branches(self) -> tuple[str, ...]:
        return ("convolution" if self.heads is None else "attention", "mlp")

    def _module(self, name: str) -> nn.Module:
        if name == "mlp":
            return GatedMlp(self.hidden)
        if self.heads is None:
            return Depthwise(self.kernel)
        return SelfAttention(self.heads, False, False, normal)

    def init(self, key: Key) -> Params:
        x, time = jnp.zeros((1, 1, self.dim)), jnp.zeros(1)
        params = {}
        for name, k in zip(self.branches, jax.random.split(key, 2), strict=True):
            like = x[:, None] if name == "convolution" else x
            params[name] = self._module(name).init(k, like)["params"]
            if name != "convolution":
                params[name] |= {"norm": TimeRMSNorm().init(k, x, time)["params"]}
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        if name == "convolution":
            module = Depthwise(self.kernel)
            return depthwise(lambda image: call(module, params, image), x, self.grid)
        x = call(TimeRMSNorm(), params["norm"], x, context.vector[:, 0])
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
class TimeNormedJoin(TimeNormed):
    """`TimeNormed`, entered by a linear map of the stream beside a long skip."""

    def init(self, key: Key) -> Params:
        both = jnp.zeros((1, 2 * self.dim))
        join = Linear(self.dim, kernel_init=normal).init(key, both)["params"]
        return {"enter": join, **super().init(jax.random.fold_in(key, 1))}

    def enter(
        self, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        both = jnp.concatenate([x, context.layer.astype(x.dtype)], -1)
        return call(Linear(self.dim), params, both)
