# SPDX-License-Identifier: Apache-2.0
"""Large images and videos in tiles, one at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.codecs.base import Posterior, check_image, check_latents
from jdit.codecs.video import Grid, check_video, check_video_latents
from jdit.typing import Array, Float, Key, Params

Pair = tuple[int, int]


@dataclass(frozen=True)
class Tiled:
    """A codec that sees `tile` by `tile` latents at a time; the same interface.

    codec: of images, or of videos, which are cut in rows and columns alone.
    tile: latents along a side of a tile, or all where the image has fewer.
    overlap: latents that neighbouring tiles share; there the results are blended
        linearly. The last tile is moved inwards to fit, and shares more.
    margin: latents at each inner edge of a tile that are computed and dropped, because
        they saw zeros where the image goes on; at most half of the overlap.

    The tiles run in a scan that holds one tile and the result, and is compiled once
    for an image's shape.

    How far it is from the untiled codec: a codec without statistics over the image
    (`AutoencoderTiny`, `AutoencoderKLLTXVideo`) differs only within its `reach` of an
    inner edge of a tile, and so not at all where margin is at least that reach. Wan's
    has one attention over the image, at its coarsest. `AutoencoderKL` has group norms
    and attention that read the whole tile instead of the whole image, so that every
    value changes, more where tiles differ in content (untrained weights and noise,
    tile 16, overlap 8: by 0.16 of the image's standard deviation on average). Blending
    hides seams, but the colours and contrasts of tiles may drift. diffusers blends
    alike, without a margin.

    Posteriors are blended in mean and logvar, as there.

    Raises ValueError for sizes that do not fit together.
    """

    codec: Any
    tile: int = 64
    overlap: int = 16
    margin: int = 4

    def __post_init__(self) -> None:
        if self.margin < 0 or 2 * self.margin > self.overlap:
            raise ValueError(
                f"margin is {self.margin}, but it must be from 0 to half of overlap, "
                f"{self.overlap}"
            )
        if self.overlap >= self.tile:
            raise ValueError(
                f"overlap is {self.overlap}, but it must be less than tile, {self.tile}"
            )

    @property
    def channels(self) -> int:
        return self.codec.channels

    @property
    def latent_channels(self) -> int:
        return self.codec.latent_channels

    @property
    def factor(self) -> Any:
        return self.codec.factor

    def latent_grid(self, grid: Grid) -> Grid:
        """The codec's own, where it is of videos."""
        return self.codec.latent_grid(grid)

    def data_grid(self, grid: Grid) -> Grid:
        """The codec's own, where it is of videos."""
        return self.codec.data_grid(grid)

    def init(self, key: Key) -> Params:
        """The codec's parameters."""
        return self.codec.init(key)

    def encode(self, params: Params, x: Float[Array, "b *t y x c"]) -> Posterior:
        """The codec's `encode`, tile by tile."""
        (check_video if self._moving else check_image)(self.codec, x)

        def encode(tile: Array) -> Posterior:
            return self.codec.encode(params, tile)

        return self._run(encode, x, self._sides, (1, 1))

    def decode(
        self, params: Params, z: Float[Array, "b *t h w c"]
    ) -> Float[Array, "b *s y x e"]:
        """The codec's `decode`, tile by tile."""
        (check_video_latents if self._moving else check_latents)(self.codec, z)

        def decode(tile: Array) -> Array:
            return self.codec.decode(params, tile)

        return self._run(decode, z, (1, 1), self._sides)

    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """To what a diffusion model reads."""
        return self.codec.normalise(z)

    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """The inverse of `normalise`."""
        return self.codec.denormalise(z)

    @property
    def _moving(self) -> bool:
        return isinstance(self.codec.factor, tuple)

    @property
    def _sides(self) -> tuple[int, int]:
        """Pixels a latent, down and across."""
        own = self.codec.factor
        return (own[1], own[2]) if self._moving else (own, own)

    def _run(
        self, part: Callable[[Array], Any], x: Array, read: Pair, write: Pair
    ) -> Any:
        """read, write: values a latent, down and across, of the input and output."""
        sides = [side // n for side, n in zip(x.shape[-3:-1], read, strict=True)]
        tile = [min(self.tile, side) for side in sides]
        (rows, vertical), (columns, horizontal) = (
            self._axis(side, size, unit)
            for side, size, unit in zip(sides, tile, write, strict=True)
        )
        if len(rows) == len(columns) == 1:
            return part(x)
        at = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        which = np.indices((len(rows), len(columns))).reshape(2, -1).T
        size = (*x.shape[:-3], tile[0] * read[0], tile[1] * read[1], x.shape[-1])
        like = jax.eval_shape(part, jax.ShapeDtypeStruct(size, x.dtype))

        def corner(row: Array, column: Array, unit: Pair) -> tuple[Any, ...]:
            return (*(0,) * (x.ndim - 3), row * unit[0], column * unit[1], 0)

        def step(whole: Any, here: tuple[Array, Array]) -> tuple[Any, None]:
            (row, column), (i, j) = here
            done = part(jax.lax.dynamic_slice(x, corner(row, column, read), size))
            weight = jnp.asarray(vertical)[i][:, None] * jnp.asarray(horizontal)[j]
            place = corner(row, column, write)

            def add(whole: Array, tile: Array) -> Array:
                old = jax.lax.dynamic_slice(whole, place, tile.shape)
                w = weight[..., None].astype(tile.dtype)
                new = old + jnp.where(w > 0, w * tile, 0)  # a logvar may be -inf
                return jax.lax.dynamic_update_slice(whole, new, place)

            return jax.tree.map(add, whole, done), None

        height, width = (side * unit for side, unit in zip(sides, write, strict=True))
        empty = jax.tree.map(
            lambda y: jnp.zeros((*y.shape[:-3], height, width, y.shape[-1]), y.dtype),
            like,
        )
        return jax.lax.scan(step, empty, (jnp.asarray(at), jnp.asarray(which)))[0]

    def _axis(self, side: int, tile: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the tiles start, in latents, and what each value of one weighs.

        The weights of all tiles sum to one at every value (`unit` values a latent).
        """
        count = -(-(side - tile) // (tile - self.overlap)) + 1 if side > tile else 1
        starts = np.minimum(np.arange(count) * (tile - self.overlap), side - tile)
        place = np.arange(tile * unit) + 0.5 - self.margin * unit
        ramp = max((self.overlap - 2 * self.margin) * unit, 0.5)  # else a step
        rise = np.clip(place / ramp, 0, 1)
        weights = np.ones((count, tile * unit))
        weights[1:] *= rise
        weights[:-1] *= rise[::-1]
        total = np.zeros(side * unit)
        spans = [slice(start * unit, (start + tile) * unit) for start in starts]
        for weight, span in zip(weights, spans, strict=True):
            total[span] += weight
        for weight, span in zip(weights, spans, strict=True):
            weight /= total[span]
        return starts, weights.astype(np.float32)
