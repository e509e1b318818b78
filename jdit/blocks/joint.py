# SPDX-License-Identifier: Apache-2.0
"""Blocks of two streams, image and text, that meet in attention (MM-DiT)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import SelfAttention
from jdit.attention.joint_attention import JointAttention, ReadingAttention
from jdit.linear import Linear, Mlp, call, zeros
from jdit.norms import layer_norm, modulate, per_token
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params, Stream

STREAMS = ("image", "text")


def modulated(
    params: Params, x: Float[Array, "b n d"], vector: Float[Array, "b *n d"]
) -> Float[Array, "b n d"]:
    """The layer norm of a stream, shifted and scaled by `modulation` of the vector."""
    both = call(Linear(2 * x.shape[-1]), params["modulation"], nn.silu(vector))
    return modulate(layer_norm(x), *jnp.split(both, 2, -1))


def gated(
    params: Params,
    x: Float[Array, "b n d"],
    output: Float[Array, "b n d"],
    vector: Float[Array, "b *n d"],
) -> Float[Array, "b n d"]:
    """The stream plus an output times `gate` of the vector."""
    gate = call(Linear(x.shape[-1]), params["gate"], nn.silu(vector))
    return x + per_token(gate) * output.astype(x.dtype)


def init_modulation(key: Key, dim: int, parts: int = 2) -> Params:
    """A zero linear layer from the conditioning vector to `parts` vectors."""
    layer = Linear(parts * dim, kernel_init=zeros)
    return layer.init(key, jnp.zeros((1, dim)))["params"]


def init_ends(
    keys: Key, leaves: Mapping[str, tuple[nn.Module, Array]], dim: int, features: int
) -> Params:
    """Parameters outside the stages of a model of these blocks.

    leaves: {name: (module, an input)}, each drawn with the key in its place.
    features: of the read-out, which starts at zero, "final".
    """
    params = {
        name: module.init(k, x)["params"]
        for k, (name, (module, x)) in zip(keys, leaves.items(), strict=False)
    }
    read_out = Linear(features, kernel_init=zeros)
    params["final"] = {
        "modulation": init_modulation(keys[0], dim),
        "linear": read_out.init(keys[0], jnp.zeros((1, dim)))["params"],
    }
    return params


def _with_modulation(key: Key, dim: int, params: Params) -> Params:
    """The parameters with a `modulation` and a `gate` beside them."""
    modulation, gate = init_modulation(key, dim), init_modulation(key, dim, 1)
    return {"modulation": modulation, "gate": gate, **params}


@dataclass(frozen=True)
class Joint:
    """SD3's block: joint attention, then an MLP for each stream, all adaLN-Zero.

    Streams are {"image": `b n d`, "text": `b m d`}, and each has weights of its own:
    `params[branch][stream]`. Shift and scale (`modulation`, `d 2d`) and `gate` (`d d`)
    of each start at zero. Also the double-stream block of Flux and Qwen-Image, which
    turn queries and keys by `context.rotary` (text before image).

    dim: width; heads: attention heads; mlp_ratio: hidden width of the MLPs over dim;
    qk_norm: RMS-normalise queries and keys per head.
    Source: Esser et al. (2024), figure 2.
    """

    dim: int
    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True

    branches = ("attention", "mlp")

    @property
    def _attention(self) -> JointAttention:
        return JointAttention(self.heads, self.qk_norm)

    @property
    def _mlp(self) -> Mlp:
        return Mlp(int(self.dim * self.mlp_ratio))

    def init(self, key: Key) -> Params:
        keys, x = jax.random.split(key, 3), jnp.zeros((1, 1, self.dim))
        attention = self._attention.init(keys[0], x, x)["params"]
        mlp = {
            name: self._mlp.init(k, x)["params"]
            for name, k in zip(STREAMS, keys[1:], strict=True)
        }
        return {
            branch: {
                name: _with_modulation(key, self.dim, tree[name]) for name in STREAMS
            }
            for branch, tree in {"attention": attention, "mlp": mlp}.items()
        }

    def output(
        self, name: str, params: Params, stream: Stream, context: Context
    ) -> Stream:
        x = {
            key: modulated(params[key], stream[key], context.vector) for key in STREAMS
        }
        if name == "mlp":
            return {key: call(self._mlp, params[key], x[key]) for key in STREAMS}
        seen = context.mask, context.rotary
        return call(self._attention, params, x["image"], x["text"], *seen)

    def merge(
        self,
        name: str,
        params: Params,
        stream: Stream,
        output: Stream,
        context: Context,
    ) -> Stream:
        return {
            key: gated(params[key], stream[key], output[key], context.vector)
            for key in STREAMS
        }


@dataclass(frozen=True)
class JointDual(Joint):
    """`Joint` whose image tokens also attend to themselves, from the same norm.

    SD3.5-medium's first layers. Both attentions read the stream as it was before
    either is added, so they are one branch; the image's output is theirs side by side,
    `b n 2d`, and each has its gate. The second one's weights are "dual".
    Source: Stability-AI/sd3.5, mmditx.py, `x_block_self_attn`.
    """

    @property
    def _dual(self) -> SelfAttention:
        return SelfAttention(self.heads, self.qk_norm)

    def init(self, key: Key) -> Params:
        params, own = super().init(key), jax.random.fold_in(key, 3)
        dual = self._dual.init(own, jnp.zeros((1, 1, self.dim)))["params"]
        params["attention"]["dual"] = _with_modulation(own, self.dim, dual)
        return params

    def output(
        self, name: str, params: Params, stream: Stream, context: Context
    ) -> Stream:
        out = super().output(name, params, stream, context)
        if name == "mlp":
            return out
        x = modulated(params["dual"], stream["image"], context.vector)
        dual = call(self._dual, params["dual"], x)
        return {**out, "image": jnp.concatenate([out["image"], dual], -1)}

    def merge(
        self,
        name: str,
        params: Params,
        stream: Stream,
        output: Stream,
        context: Context,
    ) -> Stream:
        if name == "mlp":
            return super().merge(name, params, stream, output, context)
        first, dual = jnp.split(output["image"], 2, -1)
        output = {**output, "image": first}
        stream = super().merge(name, params, stream, output, context)
        image = gated(params["dual"], stream["image"], dual, context.vector)
        return {**stream, "image": image}


@dataclass(frozen=True)
class JointLast(Joint):
    """The last of SD3's blocks: the text is read from `context.text`, not changed.

    The stream is the image's alone, `b n d`.
    """

    @property
    def _reading(self) -> ReadingAttention:
        return ReadingAttention(self.heads, self.qk_norm)

    def init(self, key: Key) -> Params:
        keys, x = jax.random.split(key), jnp.zeros((1, 1, self.dim))
        attention = self._reading.init(keys[0], x, x)["params"]
        own, text = attention["image"], attention["text"]
        modulation = init_modulation(key, self.dim)
        mlp = self._mlp.init(keys[1], x)["params"]
        return {
            "attention": {
                "image": _with_modulation(key, self.dim, own),
                "text": {"modulation": modulation, **text},
            },
            "mlp": {"image": _with_modulation(key, self.dim, mlp)},
        }

    def output(
        self, name: str, params: Params, stream: Stream, context: Context
    ) -> Stream:
        x = modulated(params["image"], stream, context.vector)
        if name == "mlp":
            return call(self._mlp, params["image"], x)
        text: Any = context.text
        text = modulated(params["text"], text, context.vector)
        return call(self._reading, params, x, text, context.mask, context.rotary)

    def merge(
        self,
        name: str,
        params: Params,
        stream: Stream,
        output: Stream,
        context: Context,
    ) -> Stream:
        return gated(params["image"], stream, output, context.vector)
