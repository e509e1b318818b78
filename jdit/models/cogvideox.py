# SPDX-License-Identifier: Apache-2.0
"""CogVideoX: video from text, both in one sequence, each with its modulation."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdit.blocks.cogvideox import ExpertBlock
from jdit.conditioning import LinearClock, Sinusoids, Text, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call, zeros
from jdit.models.backbone import Backbone
from jdit.norms import LayerNorm, modulate
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, sincos
from jdit.tokens.rotary_geometries import Axes, Geometry, Table, check_axes
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class Resized:
    """`Axes` with rows and columns stretched onto the trained grid: CogVideoX-5B.

    A video of another shape is laid into the middle of the trained grid as large as it
    fits, and its `n` rows and columns stand from there on, the last at `(n - 1) / n` of
    where it ends. Frames count from 0; text stands at the origin, where nothing turns.

    axes: channels of a head that frame, row and column turn. base: rows and columns of
    the trained grid, in tokens.
    Source: diffusers 0.42, pipeline_cogvideox.py and `get_3d_rotary_pos_embed`.
    """

    axes: tuple[int, ...] = (16, 24, 24)
    base: tuple[int, int] = (30, 45)
    theta: float = 10000.0

    def __call__(self, text: int, coordinates: Float[np.ndarray, "n a"]) -> Table:
        rows, columns = (int(n) + 1 for n in coordinates[:, -2:].max(0))
        high, wide = self.base
        if rows / columns > high / wide:
            size = high, round(high / rows * columns)
        else:
            size = round(wide / columns * rows), wide
        placed = np.array(coordinates, np.float64)
        counts = zip(self.base, size, (rows, columns), strict=True)
        for axis, (base, length, count) in enumerate(counts, 1):
            first = round((base - length) / 2)
            last = (first + length) * (count - 1) / count
            placed[:, axis] = np.linspace(first, last, count)[
                np.asarray(coordinates[:, axis], int)
            ]
        return Axes(self.axes, self.theta)(text, placed)


@dataclass(frozen=True)
class CogVideoX(Backbone):
    """CogVideoX's text-to-video transformer (Yang et al., 2024, section 2.2).

    The published weights predict v, `alpha noise - sigma x_0`, of a chain whose last
    step is pure noise: `Gaussian(ZeroTerminal(shift=3.0), "v")` for the 2B, and with a
    shift of 1 for the 5B (`jdit.processes.chains`).

    Conditions: "text" `b m e`, tokens of T5, and "mask" `b m` if padding shall not be
    seen: the published models see it, 226 tokens in all. Null is "negative", the
    encoded empty prompt, else zeros.

    grid: frames, height and width of the latents; it may be any that `patch` divides.
    channels: of the latents. patch: along height and width; a frame is a patch long.
    dim, depth, heads, mlp_ratio: as in DiT. condition: width of the conditioning
        vector.
    rotary: a geometry (`Resized`, the 5B), or None for sines and cosines that are added
        (the 2B): a quarter of the channels for the frame, the others for column and
        row. spacing: what these divide frames, and rows and columns, by.
    conditioning: width of the text, and how often training drops it.
    clock, dtype, remat, unroll: see `DiT`.

    Raises ValueError for widths or a grid that do not fit.
    Source: diffusers 0.42, cogvideox_transformer_3d.py.
    """

    grid: tuple[int, ...] = (13, 60, 90)
    channels: int = 16
    patch: int = 2
    dim: int = 1920
    depth: int = 30
    heads: int = 30
    mlp_ratio: float = 4.0
    condition: int = 512
    rotary: Geometry | None = None
    spacing: tuple[float, float] = (1.0, 1.875)
    conditioning: Text = Text(4096)
    clock: Clock = LinearClock(1000.0, -1.0)
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
        if self.rotary is not None:
            check_axes(self.rotary, self.dim // self.heads)
        elif self.dim % 16:
            raise ValueError(
                f"dim is {self.dim}, but sin-cos positions of video need a multiple "
                "of 16"
            )

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, (1, self.patch, self.patch))

    @property
    def features(self) -> int:
        """Values a token holds."""
        return self.patch**2 * self.channels

    @property
    def stages(self) -> tuple[Stage, ...]:
        block = ExpertBlock(self.dim, self.heads, self.mlp_ratio, self.condition)
        return (Stage("blocks", block, self.depth),)

    @property
    def positions(self) -> Float[Array, "n d"]:
        """The table that is added to the video's tokens where nothing is turned."""
        place, share = self.tokens.coordinates(), self.dim // 4
        frames, pixels = place[:, :1] / self.spacing[0], place[:, 1:] / self.spacing[1]
        return jnp.concatenate([sincos(frames, share), sincos(pixels, 3 * share)], -1)

    @property
    def _time(self) -> TimeEmbedding:
        return TimeEmbedding(self.condition, Sinusoids(self.dim))

    def init(self, key: Key) -> Params:
        """Parameters: DiT's initialisation, since diffusers' module has none."""
        keys, x = jax.random.split(key, 4), jnp.zeros((1, self.dim))
        features = jnp.zeros((1, self.features))
        text = jnp.zeros((1, self.conditioning.features))
        zero = {
            "modulation": Linear(2 * self.dim, kernel_init=zeros),
            "linear": Linear(self.features, kernel_init=zeros),
        }
        vector = jnp.zeros((1, self.condition))
        norm = LayerNorm(1e-5).init(key, x)["params"]
        return {
            "patch": Linear(self.dim).init(keys[0], features)["params"],
            "text": Linear(self.dim).init(keys[1], text)["params"],
            "time": self._time.init(keys[2], jnp.zeros(1))["params"],
            "norm": norm,
            "final": {
                "modulation": zero["modulation"].init(key, vector)["params"],
                "norm": norm,
                "linear": zero["linear"].init(key, x)["params"],
            },
            **self.init_stages(keys[3]),
        }

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
        text = jnp.asarray(conditions["text"], dtype)
        text = call(Linear(self.dim), params["text"], text)
        rotary = None
        if self.rotary is None:
            image = image + self.positions.astype(dtype)
        else:
            rotary = self.rotary(text.shape[1], self.tokens.coordinates())
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(self._time, params["time"], value).astype(dtype)
        context = Context(vector, rotary, mask=conditions.get("mask"))
        return {"image": image, "text": text}, context

    def read_out(
        self, params: Params, stream: Stream, context: Context
    ) -> Float[Array, "b *g c"]:
        """Norm, modulated norm, linear layer, and tokens back to their places."""
        norm, final = LayerNorm(1e-5), params["final"]
        vector = jax.nn.silu(context.vector)
        both = call(Linear(2 * self.dim), final["modulation"], vector)
        x = call(norm, params["norm"], stream["image"])
        x = modulate(call(norm, final["norm"], x), *jnp.split(both, 2, -1))
        return self.tokens.unpatchify(call(Linear(self.features), final["linear"], x))


def cogvideox_2b(**changes: Any) -> CogVideoX:
    """CogVideoX-2B, 1.7 B in its transformer: 49 frames of 480 x 720 pixels."""
    return CogVideoX(**changes)


def cogvideox_5b(**changes: Any) -> CogVideoX:
    """CogVideoX-5B: wider and deeper, with rotary positions."""
    published: dict[str, Any] = dict(dim=3072, depth=42, heads=48, rotary=Resized())
    return CogVideoX(**published | changes)
