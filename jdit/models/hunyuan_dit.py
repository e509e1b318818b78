# SPDX-License-Identifier: Apache-2.0
"""HunyuanDiT: two text encoders, rotary positions, long skips."""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdit.blocks import final_layer
from jdit.blocks.hunyuan_dit import AttentionPool, HunyuanBlock, SkipBlock
from jdit.conditioning import (
    LinearClock,
    Sinusoids,
    Text,
    TimeEmbedding,
    frequencies,
)
from jdit.conditioning.time import Clock, normal
from jdit.linear import Linear, call, zeros
from jdit.models.backbone import Backbone
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, rotary_table
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class TwoTexts(Text):
    """Text of two encoders: "text" and "mask", and "second_text" and "second_mask".

    features, second_features: widths of their tokens. length, second_length: numbers of
    their tokens; the learned padding and the pooling need them.
    """

    features: int = 1024
    second_features: int = 2048
    length: int = 77
    second_length: int = 256

    def check(self, conditions: Conditions) -> None:
        """Raise ValueError unless the conditions are there and have their shapes."""
        wanted = {
            "text": (self.length, self.features),
            "second_text": (self.second_length, self.second_features),
        }
        for name, want in wanted.items():
            shape = jnp.shape(conditions.get(name, 0))
            if name not in conditions or shape[1:] != want:
                raise ValueError(
                    f"conditions[{name!r}] has shape {shape}, but this model needs it "
                    f"with shape (batch, {want[0]}, {want[1]})"
                )
            mask = "mask" if name == "text" else "second_mask"
            if mask in conditions and jnp.shape(conditions[mask]) != shape[:2]:
                raise ValueError(
                    f"conditions[{mask!r}] has shape {jnp.shape(conditions[mask])}, "
                    f"but it must be {shape[:2]}: one entry for each token"
                )

    def null(self, conditions: Conditions) -> Conditions:
        """The same conditions with "negative" in their place, or zeros."""
        if conditions.get("negative") is None:
            names = ("text", "second_text")
            zero = {name: jnp.zeros_like(conditions[name]) for name in names}
            return {**conditions, **zero}
        return super().null(conditions)


@dataclass(frozen=True)
class HunyuanDiT(Backbone):
    """A bilingual text-to-image transformer (Li et al., 2024).

    The published weights predict `Gaussian(..., "v")` of the path that
    `process_from_diffusers` reads from their scheduler (scaled linear betas), with a
    learned variance in the second half of their channels.

    Conditions: those of `TwoTexts`: CLIP's tokens and mT5's; masked tokens are replaced
    by learned ones, and all are attended to. With `sizes` also "sizes" `b 6` (height
    and width of the original and of the wanted image, top and left of the crop, in
    pixels; without it those of the grid, at 8 a value) and "style" `b` (0 without it).

    grid, channels, out_channels, patch, dim, depth, heads: as in `DiT`; depth is even.
    mlp_ratio: 4.3637 as published.
    base: positions of every grid are those of a square of so many tokens a side: it is
        scaled to fit and centred.
    pooled: width of the pooled second text. sizes: whether sizes and style are told
        (up to version 1.1).
    conditioning, clock, basis, dtype, remat, unroll: as in `DiT`.

    Source: diffusers 0.42, hunyuan_transformer_2d.py; Tencent/HunyuanDiT.
    """

    grid: tuple[int, ...] = (128, 128)
    channels: int = 4
    out_channels: int | None = 8
    patch: int = 2
    dim: int = 1408
    depth: int = 40
    heads: int = 16
    mlp_ratio: float = 4.3637
    base: int = 32
    pooled: int = 1024
    sizes: bool = True
    conditioning: TwoTexts = TwoTexts()
    clock: Clock = LinearClock(1000.0, -1.0)
    basis: Sinusoids = Sinusoids()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim // self.heads % 4:
            raise ValueError(
                f"dim is {self.dim} with {self.heads} heads, but the width of a head "
                "must be a multiple of 4"
            )
        if self.depth < 4 or self.depth % 2:
            raise ValueError(
                f"depth is {self.depth}, but it must be even and at least 4"
            )
        if len(self.grid) != 2:
            raise ValueError(f"grid is {self.grid}, but it must have two axes")
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        return prod(self.tokens.size) * (self.out_channels or self.channels)

    @property
    def skips(self) -> int:
        """The number of long skips: from the first layers to the last, nested."""
        return self.depth // 2 - 1

    @property
    def stages(self) -> tuple[Stage, ...]:
        hidden, text = int(self.dim * self.mlp_ratio), self.conditioning.features
        plain = HunyuanBlock(self.dim, self.heads, hidden, text)
        joined = SkipBlock(self.dim, self.heads, hidden, text)
        return (
            Stage("blocks", plain, self.depth - self.skips),
            Stage("skip_blocks", joined, self.skips),
        )

    @property
    def coordinates(self) -> Float[np.ndarray, "n a"]:
        """Where the tokens are in the square of `base`, row and column."""
        height, width = self.tokens.shape
        long = max(height, width)
        axes = []
        for size in (height, width):
            length = round(self.base / long * size)
            start = round((self.base - length) / 2)
            stop = (start + length) * (size - 1) / size
            axes.append(np.linspace(start, stop, size, dtype=np.float32))
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys, texts = jax.random.split(key, 9), self.conditioning
        patch = jnp.zeros((1, prod(self.tokens.size) * self.channels))
        vector, second = jnp.zeros((1, self.dim)), texts.second_features
        text = jnp.zeros((1, texts.second_length, second))
        told = jnp.zeros((1, self.pooled + self.sizes * (6 * 256 + self.dim)))
        time = TimeEmbedding(self.dim, self.basis).init(keys[1], jnp.zeros(1))
        rows = (texts.length + texts.second_length, texts.features)
        params: Params = {
            "patch": Linear(self.dim).init(keys[0], patch)["params"],
            "time": time["params"],
            "pool": AttentionPool(self.pooled).init(keys[2], text)["params"],
            "told": _Wide(4 * self.dim, self.dim).init(keys[3], told)["params"],
            "second_text": _Wide(4 * second, texts.features).init(keys[4], text)[
                "params"
            ],
            "padding": {"table": jax.random.normal(keys[5], rows)},
        }
        if self.sizes:
            params["style"] = {"table": jax.random.normal(keys[6], (1, self.dim))}
        params |= self.init_stages(keys[7])
        features = {"modulation": 2 * self.dim, "linear": self.features}
        params["final"] = {
            name: Linear(size, kernel_init=zeros).init(keys[8], vector)["params"]
            for name, size in features.items()
        }
        return params

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The stream that enters the first layer, and what every layer sees."""
        texts = self.conditioning
        texts.check(conditions)
        dtype, batch = jnp.dtype(self.dtype), len(x_t)
        x = self.tokens.patchify(x_t.astype(dtype))
        x = call(Linear(self.dim), params["patch"], x)
        second = jnp.asarray(conditions["second_text"], jnp.float32)
        told = [call(AttentionPool(self.pooled), params["pool"], second)]
        if self.sizes:
            told += self._told(params, conditions, batch)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim, self.basis), params["time"], value)
        wide = _Wide(4 * self.dim, self.dim)
        vector = vector + call(wide, params["told"], jnp.concatenate(told, -1))

        wide = _Wide(4 * texts.second_features, texts.features)
        second = call(wide, params["second_text"], second.astype(dtype))
        first = jnp.asarray(conditions["text"], dtype)
        masks = []
        for name, tokens in (("mask", first), ("second_mask", second)):
            mask = conditions.get(name)
            full = jnp.ones(tokens.shape[:2], bool)
            masks.append(full if mask is None else jnp.asarray(mask, bool))
        real = jnp.concatenate(masks, 1)[..., None]
        padding = params["padding"]["table"].astype(dtype)
        text = jnp.where(real, jnp.concatenate([first, second], 1), padding)

        half = self.dim // self.heads // 2
        rotary = rotary_table(self.coordinates[:, ::-1], (half, half))
        return x, Context(vector.astype(dtype), rotary, text)

    def enter(
        self, stage: str, params: Params, stream: Any, context: Context, taps: Any
    ) -> tuple[Any, Context]:
        """The early layers' streams, last first, join the layers of the second half."""
        if stage == "skip_blocks":
            early = jnp.flip(taps["blocks"][: self.skips], 0)
            context = context.replace(layer=early)  # type: ignore[attr-defined]
        return stream, context

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        x = final_layer(params["final"], stream, context.vector, self.features)
        return self.tokens.unpatchify(x)

    def _told(
        self, params: Params, conditions: Conditions, batch: int
    ) -> list[Float[Array, "b e"]]:
        """Embedded sizes and style."""
        height, width = (8.0 * size for size in self.grid)
        default = jnp.array([height, width, height, width, 0, 0])
        sizes = conditions.get("sizes", jnp.broadcast_to(default, (batch, 6)))
        style = conditions.get("style", jnp.zeros(batch, jnp.int32))
        if jnp.shape(sizes) != (batch, 6) or jnp.shape(style) != (batch,):
            raise ValueError(
                f"conditions has 'sizes' of shape {jnp.shape(sizes)} and 'style' of "
                f"{jnp.shape(style)}, but they must be ({batch}, 6) and ({batch},)"
            )
        flat = jnp.asarray(sizes, jnp.float32).reshape(-1)
        embedded = frequencies(flat, 256).reshape(batch, -1)
        return [embedded, params["style"]["table"][style]]


class _Wide(nn.Module):
    """Linear, SiLU, linear, through a hidden width of its own."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        x = nn.silu(Linear(self.hidden, kernel_init=normal, name="in")(x))
        return cast(Array, Linear(self.features, kernel_init=normal, name="out")(x))


def hunyuan_dit(version: str = "1.2", **changes: Any) -> HunyuanDiT:
    """HunyuanDiT of 1024 pixels, version "1.0", "1.1" or "1.2" (told no sizes)."""
    versions = {"1.0": True, "1.1": True, "1.2": False}
    if version not in versions:
        raise ValueError(
            f"version is {version!r}, but it must be one of {', '.join(versions)}"
        )
    return HunyuanDiT(**dict(sizes=versions[version]) | changes)
