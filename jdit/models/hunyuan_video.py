# SPDX-License-Identifier: Apache-2.0
"""HunyuanVideo: Flux's blocks on video, told by text that is first refined."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jdit.blocks.refiner import Refiner
from jdit.conditioning import TimeEmbedding
from jdit.conditioning.text import VectorEmbedding
from jdit.linear import call
from jdit.models.flux import Flux
from jdit.stack import Context, Stage
from jdit.tokens import Patches
from jdit.tokens.rotary_geometries import Axes, Geometry
from jdit.typing import Array, Bool, Conditions, Float, Params, Stream


@dataclass(frozen=True)
class HunyuanVideo(Flux):
    """HunyuanVideo's text-to-video transformer (Kong et al., 2024, section 4.2).

    The published weights predict the velocity `noise - x_0` of the straight path:
    `Gaussian(Linear(), "velocity")`.

    Conditions: "text" `b m e` (a language model's hidden states), "mask" `b m` of the
    real ones, "pooled" `b e` (CLIP), and "guidance" `b` where `guidance` is true (the
    scale the weights were distilled for, e.g. 6). Null is "negative", else zeros.

    The text first goes through layers of its own (stage "refiner_blocks"), whose gates
    are told the time and the mean of the real tokens. Then come Flux's two stages, with
    frames, rows and columns as rotary positions.

    grid: frames, height and width of the latents; any that the patch divides. patch:
        along height and width; a frame is a patch long. refiner_depth: layers of text.
    channels, dim, depth, single_depth, heads, mlp_ratio, guidance, geometry,
        conditioning, clock, dtype, remat, unroll: see `Flux`.

    Padding is what `mask` says, wherever it is; published code takes it to be last.
    Raises ValueError for widths or a grid that do not fit.
    Source: diffusers 0.42, transformer_hunyuan_video.py; Tencent/HunyuanVideo,
    hyvideo/modules/models.py.
    """

    grid: tuple[int, ...] = (33, 90, 160)
    depth: int = 20
    single_depth: int = 40
    geometry: Geometry = Axes((16, 56, 56), 256.0)
    refiner_depth: int = 2

    def __post_init__(self) -> None:
        if len(self.grid) != 3:
            raise ValueError(
                f"grid is {self.grid}, but it must have three axes: frames, height, "
                "width"
            )
        if self.refiner_depth < 1:
            raise ValueError(
                f"refiner_depth is {self.refiner_depth}, but it must be at least 1"
            )
        super().__post_init__()

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, (1, self.patch, self.patch))

    @property
    def stages(self) -> tuple[Stage, ...]:
        block = Refiner(self.dim, self.heads)
        return Stage("refiner_blocks", block, self.refiner_depth), *super().stages

    def _leaves(self) -> dict[str, Any]:
        text = jnp.zeros((1, self.conditioning.features))
        return super()._leaves() | {
            "text_time": (TimeEmbedding(self.dim), jnp.zeros(1)),
            "text_pooled": (VectorEmbedding(self.dim), text),
        }

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Stream, Context]:
        """The text, and what its layers see; the rest waits in `context.extra`."""
        streams, context = super().embed(params, x_t, time, conditions)
        told = jnp.asarray(conditions["text"], jnp.float32)
        told = mean_of_real(told, context.mask)
        vector = call(VectorEmbedding(self.dim), params["text_pooled"], told)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = vector + call(TimeEmbedding(self.dim), params["text_time"], value)
        later = dict(vector=context.vector, rotary=context.rotary)
        extra = {"image": streams["image"], "context": later}
        vector = vector.astype(context.vector.dtype)
        return streams["text"], Context(vector, mask=context.mask, extra=extra)

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """The image joins the refined text, and then the streams become one."""
        if stage != "double_blocks":
            return super().enter(stage, params, stream, context, taps)
        image, later = context.extra["image"], context.extra["context"]
        context = context.replace(extra=None, **later)  # type: ignore[attr-defined]
        return {"image": image, "text": stream}, context


def mean_of_real(
    text: Float[Array, "b m e"], mask: Bool[Array, "b m"] | None
) -> Float[Array, "b e"]:
    """The mean of the tokens that are real; zeros where none is."""
    if mask is None:
        return text.mean(1)
    real = mask[..., None].astype(text.dtype)
    return (text * real).sum(1) / jnp.maximum(real.sum(1), 1)


def hunyuan_video(**changes: Any) -> HunyuanVideo:
    """HunyuanVideo, 12.8 B: 129 frames of 720 x 1,280 pixels; distilled for guidance.

    `guidance=False` is the model before that.
    """
    return HunyuanVideo(**changes)
