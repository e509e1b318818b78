# SPDX-License-Identifier: Apache-2.0
"""DiMR: a transformer at a low resolution, refined by convolutions at higher ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange, reduce

from jdit.blocks.time_normed import TimeLayerNorm, TimeNormed, TimeNormedJoin, normal
from jdit.conditioning import Labels, LinearClock
from jdit.conditioning.time import Clock
from jdit.conv import Conv, uniform
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone, Output
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class Level:
    """One resolution of a DiMR.

    dim, hidden: width of the stream and of the MLP. depth: layers, of which half send
        a long skip to the other half and one is in the middle; an even number means
        one more. heads: of attention, or None for a level of convolutions.
    patch: side of the patch a token is. shrink: how often the data is first reduced.
    kernel: size of the convolutions.
    """

    dim: int
    hidden: int
    depth: int
    heads: int | None = None
    patch: int = 1
    shrink: int = 1
    kernel: int = 7


XL_2R = (Level(960, 1920, 39, 16, 2), Level(480, 960, 20))
G_2R = (Level(1152, 2304, 57, 16, 2), Level(576, 1152, 29))


@dataclass(frozen=True)
class DiMR(Backbone):
    """A multi-resolution diffusion model (Liu et al., 2024).

    Each level is a small U-ViT: half of its layers send a long skip to the other half.
    The first level is a transformer with the label's vector as a token; the next ones
    are ConvNeXts. What the layers of a level computed, all of them side by side, is
    normed, enlarged by a linear layer and pixel shuffle, normed, and added to the
    tokens of the next level: the feature cascade. Time enters only the
    norms (`Between`).

    The prediction is the last level's. Every level has a read-out, which training uses:
    `coarse` gives those of the lower ones.

    grid: size of the data, two axes. largest: the grid whose positions are learned;
        None means `grid`. A smaller grid has the first rows and columns of them.
    levels: from the lowest resolution on; the first has heads, the others do not.
    clock: the number a time becomes; published, twice the time less one (a quarter of
        the code's `log_snr`). The published models mean `Gaussian(DDPMScaledLinear(),
        "noise")`.
    channels, conditioning, dtype, remat, unroll: see `DiT`.

    Source: qihao067/DiMR fa141ae, libs/core/blocks.py.
    """

    grid: tuple[int, ...] = (32, 32)
    channels: int = 4
    levels: tuple[Level, ...] = XL_2R
    largest: tuple[int, int] | None = None
    conditioning: Labels | None = field(default_factory=lambda: Labels(1000))
    clock: Clock = LinearClock(2.0, -1.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if len(self.grid) != 2:
            raise ValueError(f"grid is {self.grid}, but a DiMR's data has two axes")
        if not self.levels or any(
            (level.heads is None) != (i > 0) for i, level in enumerate(self.levels)
        ):
            raise ValueError(
                "levels must be a level with heads and then levels without, but their "
                f"heads are {tuple(level.heads for level in self.levels)}"
            )
        for i, level in enumerate(self.levels):
            if level.dim % (level.heads or 1):
                raise ValueError(
                    f"dim {level.dim} is not a multiple of heads {level.heads}"
                )
            if level.depth < 2:
                raise ValueError(f"depth is {level.depth}, but it must be at least 2")
            size = self.tokens_of(i).shape
            if i and any(a % b for a, b in zip(size, self._shape(i - 1), strict=True)):
                raise ValueError(
                    f"level {i} has {size} tokens, which is no multiple of the "
                    f"{self._shape(i - 1)} of the level below"
                )
        for a, b in zip(self.grid, self.largest or self.grid, strict=True):
            if a > b:
                raise ValueError(
                    f"grid is {self.grid}, but positions are learned for {self.largest}"
                )

    def tokens_of(self, level: int) -> Patches:
        """The tokens of a level."""
        own = self.levels[level]
        return Patches(tuple(size // own.shrink for size in self.grid), own.patch)

    def _shape(self, level: int) -> tuple[int, int]:
        h, w = self.tokens_of(level).shape
        return h, w

    def positions_of(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level's learned positions."""
        own = self.levels[level]
        h, w = self.largest or self.grid
        return h // (own.shrink * own.patch), w // (own.shrink * own.patch)

    @property
    def tokens(self) -> Patches:
        """The tokens of the last level."""
        return self.tokens_of(len(self.levels) - 1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        found: list[Stage] = []
        for i, own in enumerate(self.levels):
            parts = (own.dim, own.hidden, own.heads, self._shape(i), own.kernel)
            half = own.depth // 2
            found += [
                Stage(f"in_{i}_blocks", TimeNormed(*parts), half),
                Stage(f"mid_{i}_blocks", TimeNormed(*parts), 1),
                Stage(f"out_{i}_blocks", TimeNormedJoin(*parts), half),
            ]
        return tuple(found)

    def _ratio(self, level: int) -> int:
        """How much a level enlarges the one below."""
        return self.tokens_of(level).shape[0] // self.tokens_of(level - 1).shape[0]

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published."""
        keys = iter(jax.random.split(key, 2 + 5 * len(self.levels)))
        params: Params = {}
        time = jnp.zeros(1)
        for i, own in enumerate(self.levels):
            patch = jnp.zeros((1, own.patch**2 * self.channels))
            embed = Linear(own.dim, kernel_init=uniform).init(next(keys), patch)
            x = jnp.zeros((1, 1, own.dim))
            conv = Conv(self.channels).init(next(keys), x[:, None])
            params[f"patch_{i}"] = embed["params"]
            params[f"positions_{i}"] = normal(
                next(keys), (*self.positions_of(i), own.dim)
            )
            params[f"final_{i}"] = {
                "norm": TimeLayerNorm().init(next(keys), x, time)["params"],
                "conv": conv["params"],
            }
            if i:
                below = self.levels[i - 1]
                wide = jnp.zeros((1, 1, below.dim * (below.depth // 2 * 2 + 2)))
                size = own.dim * self._ratio(i) ** 2
                linear = Linear(size, kernel_init=normal).init(next(keys), wide)
                params[f"up_{i}"] = {
                    "before": TimeLayerNorm().init(key, wide, time)["params"],
                    "linear": linear["params"],
                    "after": TimeLayerNorm().init(key, x, time)["params"],
                }
        if self.conditioning is not None:
            label = self.conditioning.init(next(keys), self.levels[0].dim)
            params["label"] = label
        return params | self.init_stages(next(keys))

    def _tokens_from(
        self, level: int, params: Params, x_t: Float[Array, "b h w c"]
    ) -> Float[Array, "b n d"]:
        own, tokens = self.levels[level], self.tokens_of(level)
        r = own.shrink
        x = reduce(x_t, "b (h p) (w q) c -> b h w c", "mean", p=r, q=r)
        x = call(Linear(own.dim), params[f"patch_{level}"], tokens.patchify(x))
        h, w = tokens.shape
        table = params[f"positions_{level}"][:h, :w].astype(x.dtype)
        return x + rearrange(table, "h w d -> (h w) d")

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The lowest level's tokens; `context.vector` is the clock's number, `b 1`."""
        x_t = x_t.astype(jnp.dtype(self.dtype))
        x = self._tokens_from(0, params, x_t)
        if self.conditioning is not None:
            label = self.conditioning.apply(params["label"], conditions)
            x = jnp.concatenate([label[:, None].astype(x.dtype), x], 1)
        value = self.clock(jnp.asarray(time, jnp.float32))[:, None]
        return x, Context(value, extra={"x_t": x_t, "entered": x})

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """Long skips to a level's last layers; all features of a level to the next."""
        part, number, _ = stage.split("_")
        level = int(number)
        skips = taps[f"in_{level}_blocks"][::-1] if part == "out" else None
        if part == "in" and level:
            stream = self._tokens_from(level, params, context.extra["x_t"])
            up = self._enlarged(level, params, context, taps)
            stream = stream + up.astype(stream.dtype)
            extra = {**context.extra, "entered": stream}
            context = context.replace(extra=extra)  # type: ignore[attr-defined]
        return stream, context.replace(layer=skips)  # type: ignore[attr-defined]

    def _enlarged(
        self, level: int, params: Params, context: Context, taps: Mapping[str, Stream]
    ) -> Float[Array, "b n d"]:
        """The features of the level below, at this level's size."""
        below, own = level - 1, params[f"up_{level}"]
        time, r = context.vector[:, 0], self._ratio(level)
        stages = (taps[f"{part}_{below}_blocks"] for part in ("in", "mid", "out"))
        x = jnp.concatenate([context.extra["entered"][None], *stages])
        if below == 0 and self.conditioning is not None:
            x = x[:, :, 1:]
        x = rearrange(x, "l b n d -> b n (l d)")
        x = call(TimeLayerNorm(), own["before"], x, time)
        dim = self.levels[level].dim
        x = call(Linear(dim * r**2), own["linear"], x)
        h, w = self.tokens_of(below).shape
        x = rearrange(x, "b (h w) (p q d) -> b (h p w q) d", h=h, w=w, p=r, q=r, d=dim)
        return call(TimeLayerNorm(), own["after"], x, time)

    def _read(
        self, level: int, params: Params, stream: Float[Array, "b n d"], time: Array
    ) -> Float[Array, "b h w c"]:
        final, (h, w) = params[f"final_{level}"], self.tokens_of(level).shape
        x = call(TimeLayerNorm(), final["norm"], stream, time)
        x = rearrange(x, "b (h w) d -> b h w d", h=h, w=w)
        return call(Conv(self.channels), final["conv"], x)

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g c"]:
        """The last level's norm and convolution."""
        stream = stream[:, -self.tokens.count :]  # without the label's token
        last = len(self.levels) - 1
        return self._read(last, params, stream, context.vector[:, 0])

    def apply(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions | None = None,
        **more: Any,
    ) -> Output:
        """As `Backbone.apply`; `taps["coarse"]` holds what `coarse` gives."""
        out = super().apply(params, x_t, time, conditions, **more)
        coarse = self.coarse(params, out.taps, time)
        return out._replace(taps={**out.taps, "coarse": coarse})

    def coarse(
        self, params: Params, taps: Mapping[str, Stream], time: Float[Array, " b"]
    ) -> tuple[Float[Array, "b h w c"], ...]:
        """The predictions of all levels but the last, which `Pyramid` trains."""
        value = self.clock(jnp.asarray(time, jnp.float32))
        found = []
        for level in range(len(self.levels) - 1):
            x = taps[f"out_{level}_blocks"][-1][:, -self.tokens_of(level).count :]
            found.append(self._read(level, params, x, value).astype(jnp.float32))
        return tuple(found)


def dimr(size: str = "XL", **changes: Any) -> DiMR:
    """A published size of two resolutions: "XL" (505 M) or "G" (1.06 B)."""
    sizes = {"XL": XL_2R, "G": G_2R}
    if size not in sizes:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(sizes)}")
    return DiMR(**dict(levels=sizes[size]) | changes)
