# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of videos of LTX-Video 0.9.0."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.codecs.base import Posterior, check_statistics
from jdit.codecs.video import Grid, VideoCodec, check_video, check_video_latents
from jdit.codecs.video_layers import HeldConv
from jdit.conv import uniform
from jdit.linear import Linear, call
from jdit.norms import LayerNorm, rms_norm
from jdit.typing import Array, Float, Key, Params


def _unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """SiLU of the values over their root mean square, without parameters."""
    return nn.silu(rms_norm(x, 1e-8))


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, added to the input or its projection.

    The projection reads the input through a layer norm.
    """

    features: int
    causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w e"]:
        y = HeldConv(self.features, self.causal, name="conv_1")(_unit(x))
        y = HeldConv(self.features, self.causal, name="conv_2")(_unit(y))
        if x.shape[-1] != self.features:
            x = LayerNorm(name="skip_norm")(x)
            x = Linear(self.features, kernel_init=uniform, name="skip")(x)
        return x + y


class Level(nn.Module):
    """The residual blocks of one resolution."""

    features: int
    blocks: int
    causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        for i in range(self.blocks):
            x = Residual(self.features, self.causal, name=f"block_{i}")(x)
        return x


class Encoder(nn.Module):
    """Videos to `features` per latent. Level 0 is the finest, here and below."""

    codec: "AutoencoderKLLTXVideo"

    @nn.compact
    def __call__(self, x: Float[Array, "b s y x c"]) -> Float[Array, "b t h w e"]:
        own = self.codec
        x = HeldConv(own.widths[0], name="in")(x)
        for i, (width, blocks) in enumerate(zip(own.widths, own.blocks, strict=False)):
            x = Level(width, blocks, True, name=f"level_{i}")(x)
            if own.halves[i]:
                x = HeldConv(width, stride=(2, 2, 2), name=f"shrink_{i}")(x)
            if own.next_width(i) != width:
                x = Residual(own.next_width(i), True, name=f"change_{i}")(x)
        x = Level(own.widths[-1], own.blocks[-1], True, name="middle")(x)
        return HeldConv(own.latent_channels + 1, name="out")(_unit(x))


class Decoder(nn.Module):
    """Latents to videos. Each frame reads those before it and those after it."""

    codec: "AutoencoderKLLTXVideo"

    @nn.compact
    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b s y x e"]:
        own, enters = self.codec, self.codec.decoder_widths[-1]
        x = HeldConv(enters, False, name="in")(z)
        x = Level(enters, own.decoder_blocks[-1], False, name="middle")(x)
        for i, width in reversed(tuple(enumerate(own.decoder_widths))):
            if enters != width:
                x = Residual(width, False, name=f"change_{i}")(x)
            if own.decoder_halves[i]:
                y = HeldConv(8 * width, False, name=f"grow_{i}")(x)
                pattern = "b t h w (d f p q) -> b (t f) (h p) (w q) d"
                x = rearrange(y, pattern, f=2, p=2, q=2)[:, 1:]
            x = Level(width, own.decoder_blocks[i], False, name=f"level_{i}")(x)
            enters = width
        return HeldConv(own.channels * own.patch**2, False, name="out")(_unit(x))


@dataclass(frozen=True)
class AutoencoderKLLTXVideo(VideoCodec):
    """A variational autoencoder of videos (HaCohen et al., 2024, section 2.1).

    channels: of videos. latent_channels: of latents, which share one variance.
    widths: of the encoder's levels, the finest first.
    halves: for each level, whether frames, height and width are halved after it.
    blocks: residual blocks of each level, and of the middle.
    decoder_widths, decoder_halves, decoder_blocks: the decoder's, in the same order.
    patch: pixels a side that are joined into channels beforehand.
    scaling_factor, latents_mean, latents_std: what `normalise` does. The published
        means are tensors of the weights' file, which `load_codec` reads.
    dtype: compute dtype. Parameters stay float32; norms and outputs are float32.

    The encoder is causal, the decoder is not. Norms read one position, and diffusers
    encodes and decodes the whole clip unless told otherwise; so does this.

    This is the network of 0.9.0. The decoders of 0.9.1 and later are told a time and
    (0.9.1) draw noise, and the encoders of 0.9.5 and later shrink otherwise: they are
    not supported, and loading them is an error that names the field.

    Raises ValueError, also for videos and latents of another shape, and for frames
    that are not 1 more than a multiple of `factor[0]`.
    Source: Lightricks/LTX-Video, ltx_video/models/autoencoders/
    causal_video_autoencoder.py, as in diffusers 0.42, autoencoder_kl_ltx.py.
    """

    shift_factor: ClassVar[None] = None

    channels: int = 3
    latent_channels: int = 128
    widths: tuple[int, ...] = (128, 256, 512, 512)
    halves: tuple[bool, ...] = (True, True, True, False)
    blocks: tuple[int, ...] = (4, 3, 3, 3, 4)
    decoder_widths: tuple[int, ...] = (128, 256, 512, 512)
    decoder_halves: tuple[bool, ...] = (True, True, True, False)
    decoder_blocks: tuple[int, ...] = (4, 3, 3, 3, 4)
    patch: int = 4
    scaling_factor: float = 1.0
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for side in ("", "decoder_"):
            names = (f"{side}widths", f"{side}halves", f"{side}blocks")
            n, halves, blocks = (len(getattr(self, name)) for name in names)
            if not n or halves != n or blocks != n + 1:
                raise ValueError(
                    f"{names[0]}, {names[1]} and {names[2]} have {n}, {halves} and "
                    f"{blocks} values, but the second must have as many as the first, "
                    "and the third one more"
                )
        if sum(self.halves) != sum(self.decoder_halves):
            raise ValueError(
                f"decoder_halves is {self.decoder_halves}, but it must double as often "
                f"as halves halves, {self.halves}"
            )
        check_statistics(self)

    @property
    def factor(self) -> Grid:
        time = 2 ** sum(self.halves)
        return (time, self.patch * time, self.patch * time)

    def next_width(self, level: int) -> int:
        """What enters the level after this one of the encoder."""
        return (*self.widths, self.widths[-1])[level + 1]

    def init(self, key: Key) -> Params:
        """Parameters, initialised as torch does, but biases are zero."""
        encoder, decoder = jax.random.split(key)
        side = 2 ** sum(self.halves)
        video = jnp.zeros((1, 1, side, side, self.channels * self.patch**2))
        latents = jnp.zeros((1, 1, 1, 1, self.latent_channels))
        return {
            "encoder": Encoder(self).init(encoder, video)["params"],
            "decoder": Decoder(self).init(decoder, latents)["params"],
        }

    def encode(self, params: Params, x: Float[Array, "b s y x c"]) -> Posterior:
        """The distribution of the latents of videos in [-1, 1].

        The logarithm of the variance is kept within [-30, 20], as published.
        """
        check_video(self, x)
        p = self.patch
        pattern = "b t (h p) (w q) c -> b t h w (c q p)"
        x = rearrange(x.astype(self.dtype), pattern, p=p, q=p)
        moments = call(Encoder(self), params["encoder"], x).astype(jnp.float32)
        mean, logvar = moments[..., :-1], moments[..., -1:]
        return Posterior(mean, jnp.broadcast_to(logvar.clip(-30, 20), mean.shape))

    def decode(
        self, params: Params, z: Float[Array, "b t h w c"]
    ) -> Float[Array, "b s y x e"]:
        """Videos, about in [-1, 1], of latents as `encode` gives them."""
        check_video_latents(self, z)
        x = call(Decoder(self), params["decoder"], z.astype(self.dtype))
        pattern = "b t h w (c q p) -> b t (h p) (w q) c"
        return rearrange(x, pattern, p=self.patch, q=self.patch).astype(jnp.float32)


def ltx_vae(
    mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> AutoencoderKLLTXVideo:
    """Of LTX-Video 0.9.0: 419 M parameters, 8 x 32 x 32 to 128 channels.

    mean and std are per channel, as the published weights hold them.
    """
    return AutoencoderKLLTXVideo(latents_mean=mean, latents_std=std)
