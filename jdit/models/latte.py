# SPDX-License-Identifier: Apache-2.0
"""Latte: video, by attention within frames and along time in turn."""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdit.blocks import AdaLNZero, final_layer
from jdit.blocks.latte import Factorised
from jdit.blocks.pixart import (
    AdaLNSingle,
    Caption,
    single_final_init,
    single_final_layer,
    six_vectors,
)
from jdit.conditioning import Labels, LinearClock, Sinusoids, Text, TimeEmbedding
from jdit.conditioning.time import Clock, normal
from jdit.linear import Linear, call, zeros
from jdit.models.backbone import Backbone
from jdit.models.dit import SIZES
from jdit.models.pixart import span
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, sincos
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class Latte(Backbone):
    """A video transformer of spatial and temporal blocks in turn (Ma et al., 2024).

    The published weights predict the noise of `Gaussian(DDPMLinear(), "noise")`, with a
    learned variance in the second half of their channels.

    grid: frames, height and width of the latents. channels, out_channels: as in `DiT`.
    patch: of each frame, along height and width. dim, heads, mlp_ratio: as in `DiT`.
    depth: number of pairs of a spatial and a temporal block.
    conditioning: `Labels` or None for DiT's blocks (class-conditional or unconditional
        videos); `Text` for PixArt's, the spatial ones with attention to the tokens of
        T5, "text" `b m e` and "mask" `b m`.
    base, interpolation: of positions within a frame, see `PixArt`. Frames count from 0.
    clock, basis, dtype, remat, unroll: as in `DiT`.

    Source: Vchitect/Latte b27c24a, models/latte.py; diffusers, latte_transformer_3d.py.
    """

    grid: tuple[int, ...] = (16, 32, 32)
    channels: int = 4
    out_channels: int | None = 8
    patch: int = 2
    dim: int = 1152
    depth: int = 14
    heads: int = 16
    mlp_ratio: float = 4.0
    base: int = 16
    interpolation: float = 1.0
    conditioning: Labels | Text | None = None
    clock: Clock = LinearClock(1000.0, -1.0)
    basis: Sinusoids = Sinusoids()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but it must be at least 1")
        if len(self.grid) != 3:
            raise ValueError(
                f"grid is {self.grid}, but it must have three axes: frames, height, "
                "width"
            )
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, (1, self.patch, self.patch))

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        return prod(self.tokens.size) * (self.out_channels or self.channels)

    @property
    def stages(self) -> tuple[Stage, ...]:
        size = (self.dim, self.heads, self.mlp_ratio)
        if isinstance(self.conditioning, Text):
            plain = ("attention", "mlp")
            block = Factorised(
                AdaLNSingle(*size), AdaLNSingle(*size, plain), self.grid[0]
            )
        else:
            block = Factorised(AdaLNZero(*size), AdaLNZero(*size), self.grid[0])
        return (Stage("blocks", block, self.depth),)

    @property
    def positions(self) -> Float[Array, "n d"]:
        """The table added to the tokens of every frame, for one frame."""
        frame = Patches(self.grid[1:], self.patch)
        return sincos(span(frame, self.base, self.interpolation), self.dim)

    @property
    def places(self) -> Float[Array, "f d"]:
        """The table of the frames, added after the first spatial block."""
        return sincos(np.arange(self.grid[0], dtype=np.float32)[:, None], self.dim)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 6)
        patch = jnp.zeros((1, prod(self.tokens.size) * self.channels))
        vector = jnp.zeros((1, self.dim))
        time = TimeEmbedding(self.dim, self.basis).init(keys[1], jnp.zeros(1))
        params: Params = {
            "patch": Linear(self.dim).init(keys[0], patch)["params"],
            "time": time["params"],
            **self.init_stages(keys[2]),
        }
        if isinstance(self.conditioning, Text):
            text = jnp.zeros((1, 1, self.conditioning.features))
            shared = Linear(6 * self.dim, kernel_init=normal)
            return params | {
                "modulation": shared.init(keys[3], vector)["params"],
                "text": Caption(self.dim).init(keys[4], text)["params"],
                "final": single_final_init(keys[5], self.dim, self.features),
            }
        if self.conditioning is not None:
            params["label"] = self.conditioning.init(keys[3], self.dim)
        sizes = {"modulation": 2 * self.dim, "linear": self.features}
        params["final"] = {
            name: Linear(size, kernel_init=zeros).init(keys[5], vector)["params"]
            for name, size in sizes.items()
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
        dtype = jnp.dtype(self.dtype)
        x = self.tokens.patchify(x_t.astype(dtype))
        x = call(Linear(self.dim), params["patch"], x)
        x = x + jnp.tile(self.positions, (self.grid[0], 1)).astype(dtype)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim, self.basis), params["time"], value)
        first, extra = None, {}
        if self.grid[0] > 1:
            first = jnp.zeros(self.depth).at[0].set(1)
            extra = {"frames": self.places}
        if isinstance(self.conditioning, Text):
            self.conditioning.check(conditions)
            text = jnp.asarray(conditions["text"], dtype)
            text = call(Caption(self.dim), params["text"], text)
            extra |= six_vectors(params["modulation"], vector)
            mask = conditions.get("mask")
            return x, Context(vector, text=text, mask=mask, layer=first, extra=extra)
        if self.conditioning is not None:
            vector = vector + self.conditioning.apply(params["label"], conditions)
        return x, Context(vector.astype(dtype), layer=first, extra=extra)

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        text = isinstance(self.conditioning, Text)
        layer = single_final_layer if text else final_layer
        x = layer(params["final"], stream, context.vector, self.features)
        return self.tokens.unpatchify(x)


def latte(size: str = "XL", patch: int = 2, **changes: Any) -> Latte:
    """A published size, "S", "B", "L" or "XL": 16 frames of 256 pixels.

    Unconditional by default; UCF-101's model has `conditioning=Labels(101)`. Latents
    of Stable Diffusion's autoencoder, times 0.18215.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(SIZES)}")
    published: dict[str, Any] = dict(SIZES[size], base=32 // patch)
    published["depth"] //= 2
    return Latte(patch=patch, **published | changes)


def latte_text(**changes: Any) -> Latte:
    """Latte-1: 28 pairs of blocks, 16 frames of 512 pixels, 120 tokens of T5-XXL."""
    published: dict[str, Any] = dict(
        grid=(16, 64, 64), depth=28, base=32, conditioning=Text(4096)
    )
    return Latte(**published | changes)
