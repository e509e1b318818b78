# SPDX-License-Identifier: Apache-2.0
"""Video through a codec of images."""

from dataclasses import dataclass
from typing import Any

import jax
from einops import rearrange
from jax import lax

from jdit.codecs.base import Posterior
from jdit.typing import Array, Float, Key, Params


@dataclass(frozen=True)
class Frames:
    """Every frame by itself, a frame at a time (Latte reads videos so).

    codec: of images. Parameters are the codec's own. Videos are `b t y x c`, latents
    `b t h w c`; `factor` is one number for each of the three axes.
    """

    codec: Any

    @property
    def channels(self) -> int:
        return self.codec.channels

    @property
    def latent_channels(self) -> int:
        return self.codec.latent_channels

    @property
    def factor(self) -> tuple[int, int, int]:
        return (1, self.codec.factor, self.codec.factor)

    def init(self, key: Key) -> Params:
        return self.codec.init(key)

    def encode(self, params: Params, x: Float[Array, "b t y x c"]) -> Posterior:
        """The distribution of the latents of videos in [-1, 1]."""
        frames = rearrange(x, "b t y x c -> t b y x c")
        found = lax.map(lambda frame: self.codec.encode(params, frame), frames)
        return jax.tree.map(lambda z: rearrange(z, "t b h w c -> b t h w c"), found)

    def decode(
        self, params: Params, z: Float[Array, "b t h w c"]
    ) -> Float[Array, "b t y x e"]:
        """Videos, about in [-1, 1], of latents as `encode` gives them."""
        frames = rearrange(z, "b t h w c -> t b h w c")
        found = lax.map(lambda frame: self.codec.decode(params, frame), frames)
        return rearrange(found, "t b y x c -> b t y x c")

    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return self.codec.normalise(z)

    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return self.codec.denormalise(z)
