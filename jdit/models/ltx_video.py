# SPDX-License-Identifier: Apache-2.0
"""LTX-Video: video from text, one token for each strongly compressed latent."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.blocks.ltx_video import LTXBlock
from jdit.blocks.pixart import (
    Caption,
    single_final_init,
    single_final_layer,
    six_vectors,
)
from jdit.conditioning import LinearClock, Text, TimeEmbedding
from jdit.conditioning.time import Clock, normal
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches
from jdit.tokens.fractional import Fractional
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class LTXVideo(Backbone):
    """LTX-Video's text-to-video transformer (HaCohen et al., 2024, section 3).

    The published weights predict the velocity `noise - x_0` of the straight path:
    `Gaussian(Linear(), "velocity")`.

    Conditions: "text" `b m e`, tokens of T5-XXL, and "mask" `b m` of the real ones.
    Null is "negative", the encoded negative prompt, else zeros.

    grid: frames, height and width of the latents, any. channels: of the latents.
    dim, depth, heads, mlp_ratio: as in DiT.
    positions: where latents stand, with the frame rate and the codec's ratios, and
        whether its first latent is one frame (`Fractional`).
    conditioning: width of the text, and how often training drops it.
    clock, dtype, remat, unroll: see `DiT`.

    A time for each token, as published code gives to frames that are known, is not
    read here. Raises ValueError for widths or a grid that do not fit.
    Source: Lightricks/LTX-Video, transformer3d.py; diffusers 0.42, transformer_ltx.py.
    """

    grid: tuple[int, ...] = (21, 16, 22)
    channels: int = 128
    dim: int = 2048
    depth: int = 28
    heads: int = 32
    mlp_ratio: float = 4.0
    positions: Fractional = Fractional()
    conditioning: Text = Text(4096)
    clock: Clock = LinearClock(1000.0, 0.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads) or self.dim < 6:
            raise ValueError(
                f"dim is {self.dim}, but it must be a multiple of twice heads, "
                f"{2 * self.heads}, and at least 6: positions turn pairs of channels "
                "along three axes"
            )
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but it must be at least 1")
        if len(self.grid) != 3:
            raise ValueError(
                f"grid is {self.grid}, but it must have three axes: frames, height, "
                "width"
            )
        _ = self.tokens  # checks the grid

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, 1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        block = LTXBlock(self.dim, self.heads, self.mlp_ratio)
        return (Stage("blocks", block, self.depth),)

    def init(self, key: Key) -> Params:
        """Parameters: PixArt's initialisation, since the authors publish none."""
        keys = jax.random.split(key, 6)
        text = jnp.zeros((1, 1, self.conditioning.features))
        modulation = Linear(6 * self.dim, kernel_init=normal)
        leaves: dict[str, tuple[Any, Array]] = {
            "patch": (Linear(self.dim), jnp.zeros((1, self.channels))),
            "time": (TimeEmbedding(self.dim), jnp.zeros(1)),
            "modulation": (modulation, jnp.zeros((1, self.dim))),
            "text": (Caption(self.dim), text),
        }
        params: Params = {
            name: module.init(k, x)["params"]
            for k, (name, (module, x)) in zip(keys, leaves.items(), strict=False)
        }
        params["final"] = single_final_init(keys[4], self.dim, self.channels)
        return params | self.init_stages(keys[5])

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The stream that enters the first layer, and what every layer sees."""
        self.conditioning.check(conditions)
        dtype = jnp.dtype(self.dtype)
        x = self.tokens.patchify(x_t.astype(dtype))
        x = call(Linear(self.dim), params["patch"], x)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim), params["time"], value)
        text = jnp.asarray(conditions["text"], dtype)
        text = call(Caption(self.dim), params["text"], text)
        rotary = self.positions(self.tokens.coordinates(), self.dim, self.heads)
        extra = six_vectors(params["modulation"], vector)
        return x, Context(vector, rotary, text, conditions.get("mask"), extra=extra)

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g c"]:
        """Modulated layer norm, linear layer, and tokens back to their places."""
        x = single_final_layer(params["final"], stream, context.vector, self.channels)
        return self.tokens.unpatchify(x)


def ltx_video_2b(**changes: Any) -> LTXVideo:
    """LTX-Video 0.9 and 0.9.1, 1.9 B: 161 frames of 512 x 704 pixels.

    0.9.5 and later count a first frame of its own:
    `positions=Fractional(causal=True)`.
    """
    return LTXVideo(**changes)


def ltx_video_13b(**changes: Any) -> LTXVideo:
    """LTX-Video 13B (0.9.7 and 0.9.8): wider and deeper, a first frame of its own."""
    published: dict[str, Any] = dict(
        dim=4096, depth=48, positions=Fractional(causal=True)
    )
    return LTXVideo(**published | changes)
