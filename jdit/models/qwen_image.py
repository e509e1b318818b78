# SPDX-License-Identifier: Apache-2.0
"""Qwen-Image (Wu et al., 2025): 60 two-stream blocks that read a language model."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.blocks import final_layer
from jdit.blocks.joint import Joint, init_ends
from jdit.conditioning import LinearClock, Text, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.norms import RMSNorm
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches
from jdit.tokens.rotary_geometries import Diagonal, Geometry, check_axes
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class QwenImage(Backbone):
    """MM-DiT blocks in which every layer has both streams, modulated by time alone.

    The published weights predict the velocity `noise - x_0` of the straight path:
    `Gaussian(Linear(), "velocity")`.

    Conditions: "text" `b m e` (Qwen2.5-VL's last hidden states, RMS-normalised here)
    and "mask" `b m`. Null is "negative", the encoded empty prompt, else zeros.

    grid: size of the data, unpacked, e.g. (128, 128) latents of 16 channels; any that
        the patch divides. geometry: the rotary table, `Diagonal` as published.
    channels, patch, dim, depth, heads, mlp_ratio, conditioning, clock, dtype, remat,
        unroll: see `MMDiT`. The last layer's text is computed, as in the published
        code, and not read.

    Raises ValueError for widths that do not fit.
    """

    grid: tuple[int, ...] = (128, 128)
    channels: int = 16
    patch: int = 2
    dim: int = 3072
    depth: int = 60
    heads: int = 24
    mlp_ratio: float = 4.0
    geometry: Geometry = Diagonal()
    conditioning: Text = Text(3584)
    clock: Clock = LinearClock(1000.0, 0.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        check_axes(self.geometry, self.dim // self.heads)
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but it must be at least 1")
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def stages(self) -> tuple[Stage, ...]:
        block = Joint(self.dim, self.heads, self.mlp_ratio, qk_norm=True)
        return (Stage("joint_blocks", block, self.depth),)

    def init(self, key: Key) -> Params:
        """Parameters: DiT's initialisation, since the authors publish none."""
        keys = jax.random.split(key, 5)
        features = self.patch ** len(self.grid) * self.channels
        text = jnp.zeros((1, self.conditioning.features))
        leaves: dict[str, Any] = {
            "patch": (Linear(self.dim), jnp.zeros((1, features))),
            "text_norm": (RMSNorm(), text),
            "text": (Linear(self.dim), text),
            "time": (TimeEmbedding(self.dim), jnp.zeros(1)),
        }
        params = init_ends(keys, leaves, self.dim, features)
        return params | self.init_stages(keys[4])

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Stream, Context]:
        """Both streams, and what every layer sees."""
        self.conditioning.check(conditions)
        dtype = jnp.dtype(self.dtype)
        image = self.tokens.patchify(x_t.astype(dtype))
        image = call(Linear(self.dim), params["patch"], image)
        text = call(RMSNorm(), params["text_norm"], conditions["text"].astype(dtype))
        text = call(Linear(self.dim), params["text"], text)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim), params["time"], value).astype(dtype)
        rotary = self.geometry(text.shape[1], self.tokens.coordinates())
        context = Context(vector, rotary=rotary, mask=conditions.get("mask"))
        return {"image": image, "text": text}, context

    def read_out(
        self, params: Params, stream: Stream, context: Context
    ) -> Float[Array, "b *g e"]:
        """Image tokens: modulated norm, linear layer, and back to their places."""
        features = self.patch ** len(self.grid) * self.channels
        x = final_layer(params["final"], stream["image"], context.vector, features)
        return self.tokens.unpatchify(x)


def qwen_image(**changes: Any) -> QwenImage:
    """Qwen-Image, 20.4 B in its transformer."""
    return QwenImage(**changes)
