# SPDX-License-Identifier: Apache-2.0
"""What codecs of videos share, and images through one of them."""

from dataclasses import dataclass
from typing import Any

import jax
from einops import rearrange

from jdit.codecs.base import Posterior, check_image, denormalise, normalise
from jdit.typing import Array, Float, Key, Params

Grid = tuple[int, int, int]
"""Frames, height and width: of a video, or of its latents."""


class VideoCodec:
    """Videos `b t y x c` in [-1, 1] to latents `b t h w c` and back.

    A codec of videos derives from this. `factor` is one number for each of the three
    axes; the first frame is encoded by itself, so that an image is a video of one
    frame, and `1 + factor[0] n` frames are `1 + n` latents in time.
    """

    @property
    def factor(self) -> Grid:
        """Frames, rows and columns of pixels for each latent."""
        raise NotImplementedError

    def latent_grid(self, grid: Grid) -> Grid:
        """The latents of a video of so many frames, rows and columns of pixels.

        Raises ValueError for a video that the codec cannot encode.
        """
        t, y, x = grid
        frames, rows, columns = self.factor
        if y < 1 or x < 1 or y % rows or x % columns:
            raise ValueError(
                f"the video is {y} by {x} pixels, but they must be multiples of "
                f"{rows} and {columns}"
            )
        return (self._latents(t), y // rows, x // columns)

    def data_grid(self, grid: Grid) -> Grid:
        """The frames, rows and columns of pixels that so many latents decode to."""
        t, h, w = grid
        _, rows, columns = self.factor
        return (self._frames(t), h * rows, w * columns)

    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """To what a diffusion model reads."""
        return normalise(self, z)

    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """The inverse of `normalise`."""
        return denormalise(self, z)

    def _latents(self, frames: int) -> int:
        unit = self.factor[0]
        if frames < 1 or (frames - 1) % unit:
            raise ValueError(
                f"the video has {frames} frames, but they must be 1 more than a "
                f"multiple of {unit}"
            )
        return 1 + (frames - 1) // unit

    def _frames(self, latents: int) -> int:
        return 1 + (latents - 1) * self.factor[0]


def check_video(codec: Any, x: Any) -> None:
    """ValueError unless x is a batch of videos that the codec can encode."""
    if x.ndim != 5 or x.shape[-1] != codec.channels:
        raise ValueError(
            f"x has shape {x.shape}, but videos are (b, t, h, w, {codec.channels})"
        )
    codec.latent_grid(x.shape[1:4])


def check_video_latents(codec: Any, z: Any) -> None:
    """ValueError unless z is a batch of latents that the codec can decode."""
    if z.ndim != 5 or z.shape[-1] != codec.latent_channels or 0 in z.shape:
        raise ValueError(
            f"z has shape {z.shape}, but latents are (b, t, h, w, "
            f"{codec.latent_channels})"
        )


@dataclass(frozen=True)
class Stills:
    """Images through a codec of videos: each is a video of one frame.

    codec: of videos. Parameters are the codec's own. Images are `b y x c`, latents
    `b h w c`, and `factor` is a number (Qwen-Image reads images so).

    Raises ValueError for a codec whose latents are not as high as wide.
    """

    codec: Any

    def __post_init__(self) -> None:
        _, rows, columns = self.codec.factor
        if rows != columns:
            raise ValueError(
                f"codec has factor {self.codec.factor}, but that of rows and columns "
                "must be the same"
            )

    @property
    def channels(self) -> int:
        return self.codec.channels

    @property
    def latent_channels(self) -> int:
        return self.codec.latent_channels

    @property
    def factor(self) -> int:
        return self.codec.factor[1]

    def init(self, key: Key) -> Params:
        """The codec's parameters."""
        return self.codec.init(key)

    def encode(self, params: Params, x: Float[Array, "b y x c"]) -> Posterior:
        """The distribution of the latents of images in [-1, 1]."""
        check_image(self, x)
        posterior = self.codec.encode(params, x[:, None])
        return jax.tree.map(lambda z: rearrange(z, "b 1 h w c -> b h w c"), posterior)

    def decode(
        self, params: Params, z: Float[Array, "b h w c"]
    ) -> Float[Array, "b y x e"]:
        """Images, about in [-1, 1], of latents as `encode` gives them."""
        x = self.codec.decode(params, z[:, None])
        return rearrange(x, "b 1 y x c -> b y x c")

    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """To what a diffusion model reads."""
        return self.codec.normalise(z)

    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """The inverse of `normalise`."""
        return self.codec.denormalise(z)
