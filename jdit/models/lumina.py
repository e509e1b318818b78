# SPDX-License-Identifier: Apache-2.0
"""Lumina: Flag-DiT, a language model's blocks with text by a gate; and Next-DiT."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from flax import linen as nn

from jdit.blocks.adaln import final_layer
from jdit.blocks.lumina import FlagBlock, NextBlock
from jdit.conditioning import LinearClock, Sinusoids, Text, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call, zeros
from jdit.models.backbone import Backbone
from jdit.norms import LayerNorm, layer_norm, per_token
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches
from jdit.tokens.stretched import Scaled, Stretch, stretched_table
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class Merge:
    """Averages over squares of `size` rows and columns of a grid of tokens."""

    grid: tuple[int, ...]
    size: int

    def __call__(self, x: Float[Array, "b g n k"]) -> Float[Array, "b g m k"]:
        *_, rows, columns = self.grid
        pattern = "b g (t h p w q) k -> b g (t h w) k"
        sizes = dict(h=rows // self.size, w=columns // self.size)
        return reduce(x, pattern, "mean", p=self.size, q=self.size, **sizes)


@dataclass(frozen=True)
class FlagDiT(Backbone):
    """Flag-DiT, the backbone of Lumina-T2X (Gao et al., 2024).

    Tokens of all sizes and shapes form one row, with rotary positions along it: a
    learned [nextline] token ends each row of the grid, a learned [nextframe] token each
    frame of a 3-d grid (the latter from the paper; no public code has it). Text enters
    every layer through `TextGatedAttention`, and its masked mean through the
    conditioning vector. Conditions: "text" `b m e`, "mask" `b m`.

    The published weights mean `Gaussian(Linear(), "velocity")` once loaded by
    `jdit.interop.load_lumina`, which turns their sign, and have twice the channels, the
    second half unused. Their [pad] token, which no prediction depends on, is no
    parameter here.

    grid, channels, out_channels, patch, clock, basis, dtype, remat, unroll: as in
        `DiT`. dim, depth, heads: of the stream. groups: heads of keys and values, a
        divisor of `heads`. hidden: inner width of the SwiGLU.
    conditioning: `Text(width of the tokens)`. qk_norm: layer norms of queries and keys.
    eps: of the RMS norms. stretch: rotary frequencies at other sizes than the trained.
    base_tokens: the tokens in training, for proportional attention; None for none.

    Source: Alpha-VLLM/Lumina-T2X 1c60696, lumina_t2i/models/model.py.
    """

    grid: tuple[int, ...] = (128, 128)
    channels: int = 4
    out_channels: int | None = None
    patch: int | tuple[int, ...] = 2
    dim: int = 3072
    depth: int = 32
    heads: int = 32
    groups: int = 32
    hidden: int = 8192
    qk_norm: bool = True
    eps: float = 1e-5
    conditioning: Text = field(default_factory=lambda: Text(4096))
    clock: Clock = LinearClock(-1.0, 1.0)
    basis: Sinusoids = Sinusoids()
    stretch: Stretch = Scaled()
    base_tokens: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        axes = self.places().shape[-1]
        if self.dim % (2 * axes * self.heads):
            raise ValueError(
                f"dim is {self.dim}, but with {self.heads} heads and rotary positions "
                f"over {axes} axes it must be a multiple of {2 * axes * self.heads}"
            )
        if self.groups < 1 or self.heads % self.groups:
            raise ValueError(
                f"groups is {self.groups}, but it must divide heads, {self.heads}"
            )
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but it must be at least 1")
        if self.base_tokens is not None and self.base_tokens < 2:
            raise ValueError(
                f"base_tokens is {self.base_tokens}, but it must be at least 2, or None"
            )

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def condition_width(self) -> int:
        """The width of the conditioning vector."""
        return min(self.dim, 1024)

    @property
    def text_width(self) -> int | None:
        """The width of text tokens, None for a model without text."""
        return self.conditioning.features

    @property
    def block(self) -> FlagBlock:
        return self._block(FlagBlock)

    def _block(self, kind: type[FlagBlock], **more: Any) -> FlagBlock:
        widths = (self.dim, self.heads, self.groups, self.hidden)
        told = (self.condition_width, self.text_width)
        options: tuple[Any, ...] = (self.qk_norm, self.eps, self.base_tokens)
        return kind(*widths, *told, *options, **more)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("blocks", self.block, self.depth),)

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        return prod(self.tokens.size) * (self.out_channels or self.channels)

    @property
    def marks(self) -> tuple[str, ...]:
        """The learned tokens among those of the grid, outermost last."""
        return ("nextline", "nextframe")[: len(self.grid) - 1]

    def row(self) -> np.ndarray:
        """The sequence: which token stands where; marks are numbered after the grid."""
        order = np.arange(self.tokens.count).reshape(self.tokens.shape)
        for number, _ in enumerate(self.marks):
            end = np.full((*order.shape[:-1], 1), self.tokens.count + number)
            order = np.concatenate([order, end], -1)
            order = order.reshape(*order.shape[:-2], -1)
        return order

    def places(self) -> Float[np.ndarray, "n a"]:
        """The rotary coordinates of the sequence."""
        return np.arange(len(self.row()), dtype=np.float32)[:, None]

    @property
    def modulations(self) -> int:
        """Of the read-out: shift and scale."""
        return 2

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 5)
        patch = jnp.zeros((1, prod(self.tokens.size) * self.channels))
        vector, x = jnp.zeros((1, self.condition_width)), jnp.zeros((1, self.dim))
        modulation = Linear(self.modulations * self.dim, kernel_init=zeros)
        linear = Linear(self.features, kernel_init=zeros)
        params: Params = {
            "patch": Linear(self.dim).init(keys[0], patch)["params"],
            "time": self._embed_time.init(keys[1], jnp.zeros(1))["params"],
            **self.init_told(keys[2]),
            "final": {
                "modulation": modulation.init(keys[2], vector)["params"],
                "linear": linear.init(keys[2], x)["params"],
            },
        }
        if self.marks:
            shape = (len(self.marks), self.dim)
            drawn = 0.02 * jax.random.normal(keys[3], shape)
            params["marks"] = dict(zip(self.marks, drawn, strict=True))
        return params | self.init_stages(keys[4])

    @property
    def _embed_time(self) -> TimeEmbedding:
        return TimeEmbedding(self.condition_width, self.basis)

    @property
    def _embed_text(self) -> Linear:
        return Linear(self.condition_width, kernel_init=zeros)

    def init_told(self, key: Key) -> Params:
        """The parameters of `tell`."""
        text = jnp.zeros((1, self.conditioning.features))
        return {
            "text": {
                "norm": LayerNorm(1e-5).init(key, text)["params"],
                "linear": self._embed_text.init(key, text)["params"],
            }
        }

    def tell(
        self, params: Params, conditions: Conditions
    ) -> tuple[Float[Array, "b d"], Array | None, Array | None]:
        """What the conditions add to the vector of the time; text and its mask."""
        self.conditioning.check(conditions)
        text, mask = conditions["text"], conditions.get("mask")
        real = jnp.ones(text.shape[:2], bool) if mask is None else mask
        count = jnp.maximum(real.sum(-1, keepdims=True), 1)
        pooled = jnp.where(real[..., None], text, 0).sum(1) / count
        pooled = call(LayerNorm(1e-5), params["text"]["norm"], pooled)
        vector = call(self._embed_text, params["text"]["linear"], pooled)
        return vector, text.astype(jnp.dtype(self.dtype)), mask

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The stream that enters the first layer, and what every layer sees."""
        added, text, mask = self.tell(params, conditions)
        dtype, time = jnp.dtype(self.dtype), jnp.asarray(time, jnp.float32)
        x = self.tokens.patchify(x_t.astype(dtype))
        x = call(Linear(self.dim), params["patch"], x)
        if self.marks:
            marks = jnp.stack([params["marks"][name] for name in self.marks])
            marks = jnp.broadcast_to(marks.astype(dtype), (len(x), *marks.shape))
            x = jnp.concatenate([x, marks], 1)[:, self.row()]
        vector = call(self._embed_time, params["time"], self.clock(time)) + added
        width = self.dim // self.heads
        rotary = stretched_table(self.places(), width, self.stretch, time)
        context = Context(
            vector.astype(dtype),
            rotary,
            text,
            mask,
            extra={"drop": time},
        )
        return x, context

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        x = stream[:, np.argsort(self.row())[: self.tokens.count]]
        return self.tokens.unpatchify(self.final(params["final"], x, context.vector))

    def final(
        self, params: Params, x: Float[Array, "b n d"], vector: Float[Array, "b d"]
    ) -> Float[Array, "b n e"]:
        """The read-out of tokens."""
        return final_layer(params, x, vector, self.features)


@dataclass(frozen=True)
class NextDiT(FlagDiT):
    """Next-DiT, the backbone of Lumina-Next (Zhuo et al., 2024).

    Against `FlagDiT`: rotary positions over the axes of the grid, which take turns
    among a head's channels, in the place of one row with [nextline] and [nextframe];
    norms before and after each branch, tanh of the gates, no shifts; grouped queries.
    Larger images than trained on: `stretch` (`jdit.tokens.stretched`) and base_tokens.

    context_drop: merge the keys and values of squares of so many rows and columns into
        their mean ("Context Drop"), which 1 does not. Keys are normed and turned first,
        as in the published code (visual_anagrams/models/nextdit.py, where it is
        switched off and not time-aware). The paper drops in all layers at noise and in
        none at data. In which layers between is not published: here the first ones, in
        proportion to the time.

    Source: Alpha-VLLM/Lumina-T2X 1c60696, lumina_next_t2i/models/model.py.
    """

    dim: int = 2304
    depth: int = 24
    groups: int = 8
    hidden: int = 6144
    conditioning: Text = field(default_factory=lambda: Text(2048))
    context_drop: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        size, shape = self.context_drop, self.tokens.shape
        if size < 1 or (
            size > 1 and (len(shape) < 2 or any(n % size for n in shape[-2:]))
        ):
            raise ValueError(
                f"context_drop is {size}, but it must be 1, or divide the rows and "
                f"columns of tokens, {shape}"
            )

    @property
    def marks(self) -> tuple[str, ...]:
        return ()

    def row(self) -> np.ndarray:
        return np.arange(self.tokens.count)

    def places(self) -> Float[np.ndarray, "n a"]:
        return self.tokens.coordinates()

    @property
    def modulations(self) -> int:
        """Of the read-out: scale."""
        return 1

    @property
    def block(self) -> FlagBlock:
        if self.context_drop == 1:
            return self._block(NextBlock)
        return self._block(NextBlock, pool=Merge(self.tokens.shape, self.context_drop))

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """Each layer is told from which time on it merges its context."""
        if self.context_drop == 1:
            return stream, context
        least = jnp.arange(self.depth, dtype=jnp.float32) / self.depth
        return stream, context.replace(layer=least)  # type: ignore[attr-defined]

    def final(
        self, params: Params, x: Float[Array, "b n d"], vector: Float[Array, "b d"]
    ) -> Float[Array, "b n e"]:
        scale = call(Linear(self.dim), params["modulation"], nn.silu(vector))
        x = layer_norm(x) * (1 + per_token(scale))
        return call(Linear(self.features), params["linear"], x)


def swiglu_multiple(dim: int, multiple: int = 256, factor: float | None = None) -> int:
    """Llama's inner width: two thirds of `4 dim`, times a factor, rounded up."""
    hidden = int(8 * dim / 3)
    hidden = hidden if factor is None else int(factor * hidden)
    return multiple * -(-hidden // multiple)


def flag_dit(**changes: Any) -> FlagDiT:
    """Lumina-T2I's 5B Flag-DiT: 1,024 pixels, Llama 2's 4,096-wide tokens."""
    return FlagDiT(**dict[str, Any](out_channels=8) | changes)


def next_dit(**changes: Any) -> NextDiT:
    """Lumina-Next's 2B Next-DiT: 1,024 pixels, Gemma's 2,048-wide tokens, GQA.

    `groups=32` is the variant without grouped queries.
    """
    return NextDiT(**dict[str, Any](out_channels=8) | changes)
