# SPDX-License-Identifier: Apache-2.0
"""Flux.1 (Black Forest Labs, 2024): two streams, then one of parallel blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.attention.joint_attention import join_mask
from jdit.blocks import final_layer
from jdit.blocks.joint import Joint, init_ends
from jdit.blocks.parallel import Parallel
from jdit.conditioning import LinearClock, Text, TimeEmbedding
from jdit.conditioning.text import VectorEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches
from jdit.tokens.rotary_geometries import Axes, Geometry, check_axes
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class Flux(Backbone):
    """MM-DiT blocks with rotary positions, then parallel blocks over both streams.

    The published weights predict the velocity `noise - x_0` of the straight path:
    `Gaussian(Linear(), "velocity")`.

    Conditions: "text" `b m e` (T5), "pooled" `b e` (CLIP), "guidance" `b` where
    `guidance` is true (the scale that dev was distilled for, e.g. 3.5), and "mask"
    `b m` if padding shall not be seen: the published models see it. Null is
    "negative", the encoded empty prompt, else zeros.

    grid: size of the data, unpacked, e.g. (128, 128) latents of 16 channels; any that
        the patch divides. Published code packs 2 x 2 latents into one token of 64.
    depth, single_depth: layers of two streams (stage "double_blocks") and of one
        ("single_blocks").
    guidance: whether the model is told a guidance scale.
    geometry: the rotary table (`jdit.tokens.rotary_geometries`).
    channels, patch, dim, heads, mlp_ratio, conditioning, clock, dtype, remat, unroll:
        see `MMDiT`.

    Raises ValueError for widths that do not fit.
    """

    grid: tuple[int, ...] = (128, 128)
    channels: int = 16
    patch: int = 2
    dim: int = 3072
    depth: int = 19
    single_depth: int = 38
    heads: int = 24
    mlp_ratio: float = 4.0
    guidance: bool = True
    geometry: Geometry = Axes()
    conditioning: Text = Text(4096, 768)
    clock: Clock = LinearClock(1000.0, 0.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        check_axes(self.geometry, self.dim // self.heads)
        if min(self.depth, self.single_depth) < 1:
            raise ValueError(
                f"depth is {self.depth} and single_depth {self.single_depth}, but both "
                "must be at least 1"
            )
        if self.conditioning.pooled is None:
            raise ValueError(
                f"conditioning.pooled is None, but {type(self).__name__} reads pooled "
                "text"
            )
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def features(self) -> int:
        """Values a token holds."""
        return prod(self.tokens.size) * self.channels

    @property
    def stages(self) -> tuple[Stage, ...]:
        size = self.dim, self.heads, self.mlp_ratio
        return (
            Stage("double_blocks", Joint(*size, qk_norm=True), self.depth),
            Stage("single_blocks", Parallel(*size), self.single_depth),
        )

    def init(self, key: Key) -> Params:
        """Parameters: DiT's initialisation, since the authors publish none."""
        leaves = self._leaves()
        keys = jax.random.split(key, max(6, 1 + len(leaves)))
        params = init_ends(keys, leaves, self.dim, self.features)
        return params | self.init_stages(keys[-1])

    def _leaves(self) -> dict[str, Any]:
        """What makes the streams and the vector: (module, an input) by name."""
        leaves: dict[str, Any] = {
            "patch": (Linear(self.dim), jnp.zeros((1, self.features))),
            "text": (Linear(self.dim), jnp.zeros((1, self.conditioning.features))),
            "time": (TimeEmbedding(self.dim), jnp.zeros(1)),
            "pooled": (
                VectorEmbedding(self.dim),
                jnp.zeros((1, self.conditioning.pooled or 1)),
            ),
        }
        if self.guidance:
            leaves["guidance"] = TimeEmbedding(self.dim), jnp.zeros(1)
        return leaves

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
        text = conditions["text"].astype(dtype)
        text = call(Linear(self.dim), params["text"], text)
        vector = self._vector(params, time, conditions).astype(dtype)
        rotary = self.geometry(text.shape[1], self.tokens.coordinates())
        context = Context(vector, rotary=rotary, mask=conditions.get("mask"))
        return {"image": image, "text": text}, context

    def _vector(
        self, params: Params, time: Float[Array, " b"], conditions: Conditions
    ) -> Float[Array, "b d"]:
        """Time, guidance and pooled text, embedded and added; float32."""
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim), params["time"], value)
        if self.guidance:
            scale = 1000 * self._guidance(conditions, len(vector))
            vector = vector + call(TimeEmbedding(self.dim), params["guidance"], scale)
        pooled = conditions["pooled"].astype(jnp.float32)
        return vector + call(VectorEmbedding(self.dim), params["pooled"], pooled)

    def _guidance(self, conditions: Conditions, count: int) -> Float[Array, " b"]:
        scale = jnp.asarray(conditions.get("guidance", ()), jnp.float32)
        if scale.shape != (count,):
            raise ValueError(
                f"conditions['guidance'] has shape {scale.shape}, but this model needs "
                f"one guidance scale per image, ({count},), such as 3.5"
            )
        return scale

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """The streams become one between the stages, text before image."""
        if stage != "single_blocks":
            return stream, context
        mask = join_mask(context.mask, stream["image"])
        stream = jnp.concatenate([stream["text"], stream["image"]], 1)
        return stream, context.replace(mask=mask)  # type: ignore[attr-defined]

    def read_out(
        self, params: Params, stream: Stream, context: Context
    ) -> Float[Array, "b *g e"]:
        """Image tokens: modulated norm, linear layer, and back to their places."""
        image = stream[:, -self.tokens.count :]
        x = final_layer(params["final"], image, context.vector, self.features)
        return self.tokens.unpatchify(x)


def flux_dev(**changes: Any) -> Flux:
    """Flux.1 dev, 11.9 B: distilled for guidance, which it is told."""
    return Flux(**changes)


def flux_schnell(**changes: Any) -> Flux:
    """Flux.1 schnell, 11.9 B: for one to four steps, not told a guidance scale."""
    return Flux(**dict(guidance=False) | changes)
