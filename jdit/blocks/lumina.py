# SPDX-License-Identifier: Apache-2.0
"""Lumina's blocks: self-attention that takes text through a gate from zero."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, sqrt

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jdit.attention import Rotary, attend, split_heads, turn
from jdit.linear import Linear, Linears, SwiGLU, call, leaf, zeros
from jdit.norms import LayerNorm, RMSNorm, modulate, per_token, rms_norm
from jdit.stack import Context
from jdit.typing import Array, Bool, Float, Key, Params

Pool = Callable[[Array], Array]
"""Fewer keys or values, `b g n k` to `b g m k` (`jdit.models.NextDiT.context_drop`)."""


class TextGatedAttention(nn.Module):
    """`out(attend(q, k, v) + tanh(gate) attend(q, text k, text v))` (Lumina-T2X).

    Parameters `q` (`d d`), `kv` and `text_kv` (keys, then values, of `groups` heads),
    `gate` (`h`, zero at the start), `out` (`d d`); no biases. Queries and keys of the
    image are turned by their positions, those of the text are not.

    heads, groups: of queries, and of keys and values. qk_norm: layer norms over all
    channels of queries, keys and text keys. base: the number of tokens in training;
    the logits then grow by sqrt(log(n) / log(base)) where there are n, so that
    attention stays as sharp ("proportional attention"). None leaves them.
    Without text there are neither `text_kv` nor `gate`.
    """

    heads: int
    groups: int
    qk_norm: bool = True
    base: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        text: Float[Array, "b m e"] | None = None,
        mask: Bool[Array, "b m"] | None = None,
        rotary: Rotary | None = None,
        pool: Pool | None = None,
        dropped: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        width = self.groups * (dim // self.heads)

        def normed(part: Array, name: str, heads: int) -> Array:
            if self.qk_norm:
                part = LayerNorm(1e-5, name=name)(part)
            return split_heads(part, heads)

        q = normed(Linear(dim, False, name="q")(x), "q_norm", self.heads)
        k, v = Linears(width, False, parts=2, name="kv")(x)
        k = turn(normed(k, "k_norm", self.groups), rotary)
        q, v = turn(q, rotary), split_heads(v, self.groups)

        factor = 1.0 if self.base is None else sqrt(log(x.shape[1]) / log(self.base))
        scaled = q if factor == 1.0 else q * factor

        def seen(k: Array, v: Array) -> Array:
            return attend(scaled, k, v)

        if pool is None or dropped is None:
            own = seen(k, v)
        else:
            own = _some(dropped, lambda: seen(k, v), lambda: seen(pool(k), pool(v)))
        if text is not None:
            text_k, text_v = Linears(width, False, parts=2, name="text_kv")(text)
            text_k = normed(text_k, "text_norm", self.groups)
            told = attend(q, text_k, split_heads(text_v, self.groups), mask=mask)
            gate = leaf(self, "gate", zeros, (self.heads,))
            gate = jnp.repeat(jnp.tanh(gate), dim // self.heads).astype(x.dtype)
            own = own + gate * told
        return Linear(dim, False, name="out")(own)


def _some(
    chosen: Bool[Array, " b"], no: Callable[[], Array], yes: Callable[[], Array]
) -> Array:
    """`yes()` for the chosen images and `no()` for the rest; both only if both are."""

    def both() -> Array:
        return jnp.where(chosen[:, None, None], yes(), no())

    index = jnp.where(chosen.all(), 1, jnp.where(chosen.any(), 2, 0))
    return lax.switch(index, (no, yes, both))


@dataclass(frozen=True)
class FlagBlock:
    """`x + gate * f(modulate(rms_norm(x)))` with text in the attention: Flag-DiT.

    dim, heads, groups, hidden: widths and heads; hidden is the SwiGLU's. condition,
    text: widths of the conditioning vector and of text tokens, None for no text.
    qk_norm, base: see `TextGatedAttention`. eps: of the RMS norms.
    Context: text, mask, rotary; extra may hold "drop" `b`, and layer the least drop at
    which this layer merges its context (with `pool`).
    """

    dim: int
    heads: int
    groups: int
    hidden: int
    condition: int
    text: int | None
    qk_norm: bool = True
    eps: float = 1e-5
    base: int | None = None
    pool: Pool | None = None

    branches = ("attention", "mlp")
    parts = 2  # of the modulation: shift and scale

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return TextGatedAttention(self.heads, self.groups, self.qk_norm, self.base)
        return SwiGLU(self.hidden, False)

    @property
    def _modulation(self) -> Linear:
        return Linear(self.parts * self.dim, kernel_init=zeros)

    @property
    def _gate(self) -> Linear:
        return Linear(self.dim, kernel_init=zeros)

    @property
    def _norm(self) -> RMSNorm:
        return RMSNorm(self.eps)

    def init(self, key: Key) -> Params:
        x, vector = jnp.zeros((1, 1, self.dim)), jnp.zeros((1, self.condition))
        text = None if self.text is None else jnp.zeros((1, 1, self.text))
        params: Params = {}
        for name, k in zip(self.branches, jax.random.split(key, 2), strict=True):
            args = (x, text) if name == "attention" else (x,)
            params[name] = {
                "modulation": self._modulation.init(k, vector)["params"],
                "gate_of_branch": self._gate.init(k, vector)["params"],
                "norm": self._norm.init(k, x)["params"],
                **self._module(name).init(k, *args)["params"],
            }
        if text is not None:
            params["attention"]["norm_of_text"] = self._norm.init(key, text)["params"]
        return params

    def _modulated(self, params: Params, x: Array, vector: Array) -> Array:
        both = call(self._modulation, params["modulation"], nn.silu(vector))
        x = call(self._norm, params["norm"], x)
        return modulate(x, *jnp.split(both, 2, -1))

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        x = self._modulated(params, x, context.vector)
        if name == "mlp":
            return call(self._module(name), params, x)
        text = dropped = None
        if self.text is not None:
            text = call(self._norm, params["norm_of_text"], context.text)
        if self.pool is not None:
            dropped = context.extra["drop"] > context.layer
        more = (context.mask, context.rotary, self.pool, dropped)
        return call(self._module(name), params, x, text, *more)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        gate = call(self._gate, params["gate_of_branch"], nn.silu(context.vector))
        return x + per_token(gate) * output.astype(x.dtype)


@dataclass(frozen=True)
class NextBlock(FlagBlock):
    """`x + tanh(gate) rms_norm(f((1 + scale) rms_norm(x)))`: Next-DiT's sandwich.

    The second norm bounds what a branch adds; there is no shift (Lumina-Next, section
    2.1). Fields as in `FlagBlock`.
    """

    parts = 1  # of the modulation: scale

    def init(self, key: Key) -> Params:
        params, x = super().init(key), jnp.zeros((1, 1, self.dim))
        for name in self.branches:
            params[name]["norm_after"] = self._norm.init(key, x)["params"]
        return params

    def _modulated(self, params: Params, x: Array, vector: Array) -> Array:
        scale = call(self._modulation, params["modulation"], nn.silu(vector))
        return call(self._norm, params["norm"], x) * (1 + per_token(scale))

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        x = super().output(name, params, x, context)
        return call(self._norm, params["norm_after"], x)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        gate = call(self._gate, params["gate_of_branch"], nn.silu(context.vector))
        return x + jnp.tanh(per_token(gate)) * output.astype(x.dtype)


@dataclass(frozen=True)
class PlainNextBlock(NextBlock):
    """`NextBlock` whose norms before the branches have no scale of their own."""

    def init(self, key: Key) -> Params:
        params = super().init(key)
        for name in self.branches:
            del params[name]["norm"]
        return params

    def _modulated(self, params: Params, x: Array, vector: Array) -> Array:
        scale = call(self._modulation, params["modulation"], nn.silu(vector))
        return rms_norm(x, self.eps) * (1 + per_token(scale))
