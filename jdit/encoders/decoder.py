# SPDX-License-Identifier: Apache-2.0
"""Decoder-only language models as text encoders: Gemma, Llama, Qwen2."""

from dataclasses import dataclass
from math import pi
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdit.encoders.base import (
    DType,
    Encoding,
    causal,
    check,
    check_heads,
    layer_index,
    real,
    table,
)
from jdit.encoders.layers import (
    Activation,
    Attention,
    Layer,
    Mlp,
    Order,
    RMSNorm,
    init_layers,
    norm_of,
    run,
    silu,
)
from jdit.linear import call
from jdit.typing import Array, Float, Int, Key, Params


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's longer context: slow rotations slowed by `factor`.

    Rotations whose wavelength exceeds `original / low` tokens are slowed, those below
    `original / high` are left, and those between are mixed linearly.
    Source: meta-llama/llama-models, models/llama3/model.py, apply_scaling.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __call__(self, rate: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        turns = self.original * rate / np.float32(2 * pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return ((1 - kept) * rate / self.factor + kept * rate).astype(np.float32)


@dataclass(frozen=True)
class Rotary:
    """Rotations of queries and keys by their position (Su et al., 2021, equation 15).

    Channel i of a head turns with channel i + k/2, by `position theta^(-2i/k)`: the
    order of halves that transformers stores, not of neighbours (`jdit.tokens.rotate`).
    Rates are float32, as in the reference.
    """

    theta: float = 10000.0
    scaling: Llama3Scaling | None = None

    def rates(self, width: int) -> Float[np.ndarray, " k"]:
        """Radians a token, for each pair of channels."""
        power = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
        rate = 1 / np.float32(self.theta) ** power
        return rate if self.scaling is None else self.scaling(rate)

    def turn(self, x: Float[Array, "b h n k"]) -> Float[Array, "b h n k"]:
        """Turn queries or keys, in float32."""
        place = np.arange(x.shape[-2], dtype=np.float32)
        angle = place[:, None] * self.rates(x.shape[-1])
        cos, sin = np.cos(angle), np.sin(angle)
        left, right = jnp.split(x.astype(jnp.float32), 2, -1)
        turned = [left * cos - right * sin, right * cos + left * sin]
        return jnp.concatenate(turned, -1).astype(x.dtype)


@dataclass(frozen=True)
class Decoder:
    """A causal transformer over text, read at a hidden layer.

    vocab, dim, depth, hidden: of the stream and its gated MLPs.
    heads, groups, width: heads of queries, of keys and values, and their width.
    activation: of the MLP's gate. norm: RMSNorm, or OffsetRMSNorm (Gemma).
    order: "pre", or "sandwich" for norms on the way into and out of a branch.
    qkv_bias, out_bias, mlp_bias: which projections have biases.
    rotary: the positions. scale: of the logits, `1 / sqrt(width)` if None.
    softcap: bounds the logits, see `Attention`.
    windows: how many tokens a query sees, itself included, in successive layers,
        repeated through the depth; None sees all. Gemma 2 alternates (4096, None).
    embed_scale: the embedding is multiplied by it, rounded to the dtype.
    layer: which hidden state the tokens are, in transformers' count: 0 the embedding,
        i the stream after layer i, depth (or -1) the last one after the final norm.
        Layers behind it are not computed.

    Source: transformers 5.23, models/{gemma,gemma2,llama,qwen2}/modeling_*.py.
    """

    vocab: int
    dim: int
    depth: int
    heads: int
    groups: int
    width: int
    hidden: int
    activation: Activation = silu
    norm: type[nn.Module] = RMSNorm
    order: Order = "pre"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    rotary: Rotary = Rotary()
    scale: float | None = None
    softcap: float | None = None
    windows: tuple[int | None, ...] = ()
    embed_scale: float = 1.0
    layer: int = -1
    eps: float = 1e-6
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        check(self, "vocab", "dim", "depth", "heads", "groups", "width", "hidden")
        check_heads(self, "heads", "groups")
        layer_index(self.layer, self.depth)
        if self.order not in ("pre", "sandwich"):
            raise ValueError(
                f"order is {self.order!r}, but it must be 'pre' or 'sandwich'"
            )
        if self.width % 2:
            raise ValueError(f"width is {self.width}, but rotations need an even one")
        if any(window is not None and window < 1 for window in self.windows):
            raise ValueError(
                f"windows is {self.windows}, but each must be >= 1 or None"
            )

    @property
    def features(self) -> int:
        return self.dim

    @property
    def block(self) -> Layer:
        """One layer, as parts."""
        attention = Attention(
            self.heads,
            self.width,
            self.groups,
            self.qkv_bias,
            self.out_bias,
            self.scale,
            self.softcap,
        )
        mlp = Mlp(self.hidden, self.activation, gated=True, bias=self.mlp_bias)
        return Layer(attention, mlp, norm_of(self.norm, self.eps), self.order)

    def init(self, key: Key) -> Params:
        """Random parameters."""
        token, layers = jax.random.split(key)
        norm = self.norm(eps=self.eps)  # type: ignore[call-arg]
        return {
            "token": table(token, self.vocab, self.dim),
            "layers": init_layers(self.block, layers, self.depth, self.dim),
            "norm": norm.init(key, jnp.zeros((1, self.dim)))["params"],
        }

    def apply(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Encoding:
        """Encode ids; `mask` `b m` says which are real, all if None.

        Positions count from the left, padding included, as transformers' models do.
        """
        stop = layer_index(self.layer, self.depth)
        first, taps = self._walk(params, ids, mask, stop)
        x = taps[-1] if stop else first
        x = self._norm(params, x) if stop == self.depth else x
        return Encoding(x.astype(jnp.float32))

    def hidden_states(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Float[Array, "s b m d"]:
        """The embedding, the stream after each layer, the last one normalised."""
        first, taps = self._walk(params, ids, mask, self.depth)
        last = self._norm(params, taps[-1])
        states = jnp.concatenate([first[None], taps[:-1], last[None]])
        return states.astype(jnp.float32)

    def _walk(
        self, params: Params, ids: Array, mask: Any, stop: int
    ) -> tuple[Array, Array]:
        seen = causal(real(ids, mask))
        tokens = ids.shape[1]
        back = jnp.arange(tokens)[:, None] - jnp.arange(tokens)
        first = params["token"]["table"][ids].astype(self.dtype)
        first = first * jnp.asarray(self.embed_scale, self.dtype)
        block, windows = self.block, self.window(tokens)

        def step(weights: Params, x: Array, window: Array | None) -> Array:
            allowed = seen if window is None else seen & (back < window)
            return call(block, weights, x, allowed, None, self.rotary.turn)

        _, taps = run(step, params["layers"], first, windows, stop)
        return first, taps

    def window(self, tokens: int) -> Int[Array, " l"] | None:
        """How many tokens each layer sees; None where all see everything."""
        if not self.windows or all(w is None or w >= tokens for w in self.windows):
            return None
        cycle = [tokens if w is None else w for w in self.windows]
        return jnp.asarray([cycle[i % len(cycle)] for i in range(self.depth)])

    def _norm(self, params: Params, x: Array) -> Array:
        return call(self.norm(eps=self.eps), params["norm"], x)  # type: ignore[call-arg]
