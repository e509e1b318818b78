# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of latent diffusion, in all its published sizes."""

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
from jdit.codecs.layers import (
    Conv,
    GroupNorm,
    PixelAttention,
    Residual,
    double,
    uniform,
)
from jdit.linear import Linear, call
from jdit.typing import Array, Float, Key, Params


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if `attend`."""

    features: int
    blocks: int
    groups: int
    attend: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w e"]:
        for i in range(self.blocks):
            x = Residual(self.features, self.groups, name=f"block_{i}")(x)
            if self.attend:
                x = PixelAttention(self.groups, name=f"attention_{i}")(x)
        return x


class Middle(nn.Module):
    """Two residual blocks of the coarsest resolution, with attention in between."""

    groups: int
    attend: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        x = Residual(x.shape[-1], self.groups, name="block_0")(x)
        if self.attend:
            x = PixelAttention(self.groups, name="attention_0")(x)
        return Residual(x.shape[-1], self.groups, name="block_1")(x)


class Encoder(nn.Module):
    """Images to `features` per latent. Level 0 is the finest, here and below."""

    codec: "AutoencoderKL"

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b h w e"]:
        own = self.codec
        x = Conv(own.widths[0], name="in")(x)
        for i, width in enumerate(own.widths):
            attend = i in own.attention
            x = Level(width, own.blocks, own.groups, attend, name=f"level_{i}")(x)
            if i < len(own.widths) - 1:
                x = Conv(width, stride=2, padding=(0, 1), name=f"shrink_{i}")(x)
        x = Middle(own.groups, own.mid_attention, name="middle")(x)
        x = nn.silu(GroupNorm(own.groups, name="norm")(x))
        return Conv(2 * own.latent_channels, name="out")(x)


class Decoder(nn.Module):
    """Latents to images."""

    codec: "AutoencoderKL"

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b y x e"]:
        own = self.codec
        x = Conv(own.widths[-1], name="in")(z)
        x = Middle(own.groups, own.mid_attention, name="middle")(x)
        for i, width in reversed(tuple(enumerate(own.widths))):
            attend = i in own.attention
            x = Level(width, own.blocks + 1, own.groups, attend, name=f"level_{i}")(x)
            if i > 0:
                x = Conv(width, name=f"grow_{i}")(double(x))
        x = nn.silu(GroupNorm(own.groups, name="norm")(x))
        return Conv(own.out_channels or own.channels, name="out")(x)


@dataclass(frozen=True)
class AutoencoderKL:
    """A convolutional variational autoencoder (Rombach et al., 2022, section 3.1).

    channels: of images. out_channels: None means `channels`.
    latent_channels: of latents. widths: of the levels, the finest first; each but the
        last halves the image, so that `factor` is `2 ** (len(widths) - 1)`.
    blocks: residual blocks a level in the encoder; the decoder has one more.
    groups: of every group norm.
    mid_attention: whether the middle has attention. attention: levels whose blocks are
        each followed by attention.
    quant, post_quant: whether a linear layer follows the encoder, precedes the decoder.
    scaling_factor, shift_factor, latents_mean, latents_std: what `normalise` does.
    sample_size, force_upcast: pixels a side of the training images, and whether half
        precision overflows; read by no code here, kept for who runs or saves the codec.
    dtype: compute dtype. Parameters stay float32; norms, softmax and outputs are
        float32 always.

    Group norms and attention read the whole image, so a crop of an image does not
    encode to a crop of its latents.

    Raises ValueError, also for images and latents of another shape.
    Source: CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py, and
    diffusers 0.42, models/autoencoders/autoencoder_kl.py.
    """

    channels: int = 3
    out_channels: int | None = None
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    mid_attention: bool = True
    attention: tuple[int, ...] = ()
    quant: bool = True
    post_quant: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    sample_size: int = 256
    force_upcast: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not self.widths or any(width % self.groups for width in self.widths):
            raise ValueError(
                f"widths are {self.widths}, but each must be a multiple of groups, "
                f"{self.groups}"
            )
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}, but it must be at least 1")
        if not set(self.attention) <= set(range(len(self.widths))):
            raise ValueError(
                f"attention is {self.attention}, but levels are 0 to "
                f"{len(self.widths) - 1}"
            )
        check_statistics(self)

    @property
    def factor(self) -> int:
        return 2 ** (len(self.widths) - 1)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as torch does, but biases are zero."""
        keys = jax.random.split(key, 4)
        image = jnp.zeros((1, self.factor, self.factor, self.channels))
        latent = jnp.zeros((1, 1, 1, self.latent_channels))
        moments = jnp.concatenate([latent, latent], -1)
        parts: dict[str, tuple[nn.Module, Array]] = {
            "encoder": (Encoder(self), image),
            "decoder": (Decoder(self), latent),
        }
        if self.quant:
            quant = Linear(2 * self.latent_channels, kernel_init=uniform)
            parts["quant"] = (quant, moments)
        if self.post_quant:
            post_quant = Linear(self.latent_channels, kernel_init=uniform)
            parts["post_quant"] = (post_quant, latent)
        return {
            name: part.init(key, x)["params"]
            for key, (name, (part, x)) in zip(keys, parts.items(), strict=False)
        }

    def encode(self, params: Params, x: Float[Array, "b y x c"]) -> Posterior:
        """The distribution of the latents of images in [-1, 1].

        The logarithm of the variance is kept within [-30, 20], as published.
        """
        check_image(self, x)
        moments = call(Encoder(self), params["encoder"], x.astype(self.dtype))
        if self.quant:
            moments = call(Linear(moments.shape[-1]), params["quant"], moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
        return Posterior(mean, logvar.clip(-30, 20))

    def decode(
        self, params: Params, z: Float[Array, "b h w c"]
    ) -> Float[Array, "b y x e"]:
        """Images, about in [-1, 1], of latents as `encode` gives them."""
        check_latents(self, z)
        z = z.astype(self.dtype)
        if self.post_quant:
            z = call(Linear(self.latent_channels), params["post_quant"], z)
        return call(Decoder(self), params["decoder"], z).astype(jnp.float32)

    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """To what a diffusion model reads."""
        return normalise(self, z)

    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """The inverse of `normalise`."""
        return denormalise(self, z)


def sd_vae() -> AutoencoderKL:
    """Of Stable Diffusion 1 and 2, DiT and SiT: 83.7 M parameters, 8 x 8 to 4."""
    return AutoencoderKL()


def sdxl_vae() -> AutoencoderKL:
    """Of Stable Diffusion XL (Podell et al., 2023, section 2.4), trained anew."""
    return AutoencoderKL(scaling_factor=0.13025, sample_size=1024)


def sd3_vae() -> AutoencoderKL:
    """Of Stable Diffusion 3 (Esser et al., 2024, section 5.1.1): 16 channels."""
    return AutoencoderKL(
        latent_channels=16,
        quant=False,
        post_quant=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        sample_size=1024,
    )


def flux_vae() -> AutoencoderKL:
    """Of FLUX.1: SD3's shape with weights and statistics of its own."""
    return AutoencoderKL(
        latent_channels=16,
        quant=False,
        post_quant=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        sample_size=1024,
    )


def va_vae(
    mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> AutoencoderKL:
    """The vision-aligned codec of LightningDiT: 16 x 16 to 32 channels.

    Five levels with attention also at the coarsest (Yao et al., 2025; the repository's
    tokenizer/configs/vavae_f16d32.yaml). mean and std are per channel, as
    latents_stats.pt beside the published weights holds them.
    """
    return AutoencoderKL(
        latent_channels=32,
        widths=(128, 128, 256, 256, 512),
        attention=(4,),
        scaling_factor=1.0,
        latents_mean=mean,
        latents_std=std,
    )
