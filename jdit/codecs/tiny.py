# SPDX-License-Identifier: Apache-2.0
"""A small distilled autoencoder without norms and attention, for quick looks."""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.codecs.base import (
    Posterior,
    check_image,
    check_latents,
    check_statistics,
    denormalise,
    normalise,
)
from jdit.codecs.layers import Conv, double
from jdit.linear import call
from jdit.typing import Array, Float, Key, Params


class Block(nn.Module):
    """Three convolutions with ReLU, added to the input, and one more ReLU."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        y = x
        for i in range(3):
            y = Conv(x.shape[-1], name=f"conv_{i}")(nn.relu(y) if i else y)
        return nn.relu(x + y)


class Encoder(nn.Module):
    """Images in [0, 1] to latents; every level after the first halves the image."""

    codec: "AutoencoderTiny"

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b h w e"]:
        own = self.codec
        x = Conv(own.widths[0], name="in")(x)
        for i, blocks in enumerate(own.encoder_blocks):
            if i:
                shrink = Conv(
                    own.widths[0], stride=2, use_bias=False, name=f"shrink_{i}"
                )
                x = shrink(x)
            for j in range(blocks):
                x = Block(name=f"level_{i}_block_{j}")(x)
        return Conv(own.latent_channels, name="out")(x)


class Decoder(nn.Module):
    """Latents to images in [0, 1]; every level but the last doubles the image."""

    codec: "AutoencoderTiny"

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b y x e"]:
        own, last = self.codec, len(self.codec.decoder_blocks) - 1
        x = nn.relu(Conv(own.widths[1], name="in")(3 * jnp.tanh(z / 3)))
        for i, blocks in enumerate(own.decoder_blocks):
            for j in range(blocks):
                x = Block(name=f"level_{i}_block_{j}")(x)
            if i < last:
                grow = Conv(own.widths[1], use_bias=False, name=f"grow_{i}")
                x = grow(double(x))
        return Conv(own.channels, name="out")(x)


@dataclass(frozen=True)
class AutoencoderTiny:
    """TAESD: a deterministic codec of the latents of a large one (Bohan, 2023).

    It reads and writes latents that a diffusion model reads, already normalised, so
    that `normalise` is the identity at the published statistics.

    channels: of images. latent_channels: of latents.
    widths: of the encoder and of the decoder, the same at all levels.
    encoder_blocks, decoder_blocks: residual blocks a level, in the order of
        computation; both halve, or double, the image between levels.
    scaling_factor, shift_factor, latents_mean, latents_std: what `normalise` does.
    dtype: compute dtype. Parameters stay float32, outputs are float32.

    Nothing in it reads further than `reach`, so that a tile of an image gives exactly
    what the whole image gives there.

    Raises ValueError, also for images and latents of another shape.
    Source: madebyollin/taesd, taesd.py, and diffusers 0.42,
    models/autoencoders/autoencoder_tiny.py.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, int] = (64, 64)
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not len(self.encoder_blocks) == len(self.decoder_blocks) > 0:
            raise ValueError(
                f"encoder_blocks {self.encoder_blocks} and decoder_blocks "
                f"{self.decoder_blocks} must name as many levels, at least one"
            )
        check_statistics(self)

    @property
    def factor(self) -> int:
        return 2 ** (len(self.encoder_blocks) - 1)

    @property
    def reach(self) -> tuple[int, int]:
        """Latents on each side of one that encoding it, decoding it depend on."""
        low = high = 0  # the pixels, in units of the level, that are read
        for i, blocks in reversed(tuple(enumerate(self.encoder_blocks))):
            ends = (i == 0) + (i == len(self.encoder_blocks) - 1)
            low, high = low - 3 * blocks - ends, high + 3 * blocks + ends
            if i:
                low, high = 2 * low - 1, 2 * high + 1
        encoder = max(-(low // self.factor), high // self.factor)

        low, high = 0, self.factor - 1  # of the pixels of one latent
        for i, blocks in reversed(tuple(enumerate(self.decoder_blocks))):
            ends = (i == 0) + (i == len(self.decoder_blocks) - 1)
            low, high = low - 3 * blocks - ends, high + 3 * blocks + ends
            if i:
                low, high = (low - 1) // 2, (high + 1) // 2
        return encoder, max(-low, high)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as torch does, but biases are zero."""
        first, second = jax.random.split(key)
        image = jnp.zeros((1, self.factor, self.factor, self.channels))
        latent = jnp.zeros((1, 1, 1, self.latent_channels))
        return {
            "encoder": Encoder(self).init(first, image)["params"],
            "decoder": Decoder(self).init(second, latent)["params"],
        }

    def encode(self, params: Params, x: Float[Array, "b y x c"]) -> Posterior:
        """The latents of images in [-1, 1], without any variance."""
        check_image(self, x)
        x = (x.astype(self.dtype) + 1) / 2
        mean = call(Encoder(self), params["encoder"], x).astype(jnp.float32)
        return Posterior(mean, jnp.full_like(mean, -jnp.inf))

    def decode(
        self, params: Params, z: Float[Array, "b h w c"]
    ) -> Float[Array, "b y x e"]:
        """Images, about in [-1, 1], of latents as `encode` gives them."""
        check_latents(self, z)
        x = call(Decoder(self), params["decoder"], z.astype(self.dtype))
        return 2 * x.astype(jnp.float32) - 1

    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """To what a diffusion model reads."""
        return normalise(self, z)

    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """The inverse of `normalise`."""
        return denormalise(self, z)


def taesd(latent_channels: int = 4) -> AutoencoderTiny:
    """As published for Stable Diffusion and SDXL (4), SD3 and FLUX.1 (16 channels)."""
    return AutoencoderTiny(latent_channels=latent_channels)
