# SPDX-License-Identifier: Apache-2.0
"""The multimodal diffusion transformer of Stable Diffusion 3 and 3.5: MM-DiT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdit.blocks import final_layer
from jdit.blocks.joint import Joint, JointDual, JointLast, init_ends
from jdit.conditioning import LinearClock, Sinusoids, Text, TimeEmbedding
from jdit.conditioning.text import VectorEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.stack import Block, Context, Remat, Stage
from jdit.tokens import Patches, sincos
from jdit.tokens.rotary_geometries import Geometry, check_axes
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class MMDiT(Backbone):
    """Image and text in two streams that meet in attention (Esser et al., 2024).

    The published weights predict the velocity `noise - x_0` of the straight path:
    `Gaussian(Linear(), "velocity")`.

    Conditions: "text" `b m e` (CLIP's two encoders, padded in width to T5's, then T5's
    tokens), "pooled" `b e` (both CLIPs' pooled vectors), and "mask" `b m` if padding
    shall not be seen: the published models see it. Null is "negative", the encoded
    empty prompt, else zeros.

    grid: size of the data; it may be any whose tokens fit into `max_size`.
    max_size: rows and columns of the table of positions, of which the middle is used.
    spacing, offset: row i of that table stands at `i / spacing - offset`.
    channels, patch, dim, depth, heads, mlp_ratio: as in the paper.
    qk_norm: RMS-normalise queries and keys (SD3.5).
    dual_layers: how many of the first layers have a second attention, of the image to
        itself (SD3.5-medium). They are the stage "dual_blocks", the others
        "joint_blocks", but for the last layer, which leaves the text as it is:
        "last_blocks".
    conditioning: widths of text and pooled. dropout: the paper drops each of its three
        encoders by itself, at 46.4%; `Text` drops all of them at once.
    rotary: a geometry (`jdit.tokens.rotary_geometries`) in place of the added table;
        None as published.
    clock, dtype, remat, unroll: see `DiT`.

    Raises ValueError for widths, layers or a grid that do not fit.
    """

    grid: tuple[int, ...] = (128, 128)
    channels: int = 16
    patch: int = 2
    dim: int = 1536
    depth: int = 24
    heads: int = 24
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    dual_layers: int = 0
    max_size: int = 192
    spacing: float = 3.0
    offset: float = 0.0
    rotary: Geometry | None = None
    conditioning: Text = Text(4096, 2048)
    clock: Clock = LinearClock(1000.0, 0.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.depth < 2 or not 0 <= self.dual_layers < self.depth:
            raise ValueError(
                f"depth is {self.depth} and dual_layers {self.dual_layers}, but depth "
                "must be at least 2, and dual_layers less than it"
            )
        if self.rotary is not None:
            check_axes(self.rotary, self.dim // self.heads)
        if len(self.grid) != 2 or max(self.tokens.shape) > self.max_size:
            raise ValueError(
                f"grid is {self.grid}, but it must have 2 axes of at most "
                f"{self.max_size * self.patch}: the table of positions ends there"
            )
        if self.conditioning.pooled is None:
            raise ValueError(
                "conditioning.pooled is None, but MM-DiT reads pooled text"
            )

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def stages(self) -> tuple[Stage, ...]:
        size = (self.dim, self.heads, self.mlp_ratio, self.qk_norm)
        plain = self.depth - 1 - self.dual_layers
        kinds: dict[str, tuple[Block, int]] = {
            "dual_blocks": (JointDual(*size), self.dual_layers),
            "joint_blocks": (Joint(*size), plain),
            "last_blocks": (JointLast(*size), 1),
        }
        return tuple(Stage(name, *kind) for name, kind in kinds.items() if kind[1])

    def coordinates(self) -> Float[np.ndarray, "n 2"]:
        """Where each token stands: the middle of the table of `max_size`."""
        first = [(self.max_size - size) // 2 for size in self.tokens.shape]
        index = np.asarray(self.tokens.coordinates() + first, np.float32)
        return index / np.float32(self.spacing) - np.float32(self.offset)

    def init(self, key: Key) -> Params:
        """Parameters: DiT's initialisation, since the authors publish none."""
        keys = jax.random.split(key, 5)
        features = self.patch**2 * self.channels
        leaves = {
            "patch": (Linear(self.dim), jnp.zeros((1, features))),
            "text": (Linear(self.dim), jnp.zeros((1, self.conditioning.features))),
            "time": (TimeEmbedding(self.dim), jnp.zeros(1)),
            "pooled": (
                VectorEmbedding(self.dim),
                jnp.zeros((1, self.conditioning.pooled or 1)),
            ),
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
        text = conditions["text"].astype(dtype)
        text = call(Linear(self.dim), params["text"], text)
        rotary = None
        if self.rotary is None:
            image = image + sincos(self.coordinates(), self.dim).astype(dtype)
        else:
            rotary = self.rotary(text.shape[1], self.tokens.coordinates())
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim, Sinusoids()), params["time"], value)
        pooled = conditions["pooled"].astype(jnp.float32)
        vector = vector + call(VectorEmbedding(self.dim), params["pooled"], pooled)
        context = Context(vector.astype(dtype), rotary, mask=conditions.get("mask"))
        return {"image": image, "text": text}, context

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """Before the last layer the text leaves the stream: it is only read there."""
        if stage != "last_blocks":
            return stream, context
        return stream["image"], context.replace(  # type: ignore[attr-defined]
            text=stream["text"]
        )

    def read_out(
        self, params: Params, stream: Stream, context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        features = self.patch**2 * self.channels
        x = final_layer(params["final"], stream, context.vector, features)
        return self.tokens.unpatchify(x)


def sd3(depth: int = 24, **changes: Any) -> MMDiT:
    """SD3 of a depth d: width 64 d, d heads: 24 is SD3-medium, 2.0 B."""
    return MMDiT(**dict(dim=64 * depth, depth=depth, heads=depth) | changes)


def sd35_medium(**changes: Any) -> MMDiT:
    """SD3.5-medium, 2.2 B in its transformer: 13 dual layers, 384 x 384 positions."""
    published: dict[str, Any] = dict(
        qk_norm=True, dual_layers=13, max_size=384, spacing=6.0
    )
    return sd3(24, **published | changes)


def sd35_large(**changes: Any) -> MMDiT:
    """SD3.5-large, 8.1 B: depth 38 with normalised queries and keys."""
    return sd3(38, **dict(qk_norm=True) | changes)
