# SPDX-License-Identifier: Apache-2.0
"""The causal autoencoder of videos of CogVideoX, and what others share with it."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat

from jdit.codecs.base import Posterior, check_statistics
from jdit.codecs.layers import GroupNorm, double
from jdit.codecs.video import Grid, VideoCodec, check_video, check_video_latents
from jdit.codecs.video_layers import (
    HeldConv,
    each_frame,
    first_and_rest,
    over_frames,
)
from jdit.conv import Conv, uniform
from jdit.linear import Linear, call
from jdit.typing import Array, Float, Key, Params


class Chunks(NamedTuple):
    """Where a clip is cut: after `first` frames, and then into `rest` equal parts."""

    first: int
    rest: int


class ChunkNorm(nn.Module):
    """A group norm over each chunk of the clip by itself."""

    groups: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w d"], chunks: Chunks
    ) -> Float[Array, "b t h w d"]:
        norm = GroupNorm(self.groups, name="norm")
        first = over_frames(norm, x[:, : chunks.first])
        if not chunks.rest:
            return first
        rest, n = x[:, chunks.first :], chunks.rest
        rest = rearrange(rest, "b (n t) h w d -> (b n) t h w d", n=n)
        rest = rearrange(over_frames(norm, rest), "(b n) t ... -> b (n t) ...", n=n)
        return jnp.concatenate([first, rest], 1)


class SpatialNorm(nn.Module):
    """A norm whose scale and bias are linear in the latents of the same place.

    Zheng et al. (2022, MoVQ, equation 3): `norm(x) f(z) + g(z)`, z enlarged to x by
    repetition. f and g are applied before, which is the same and cheaper.
    """

    groups: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b s y x d"],
        z: Float[Array, "b t h w c"],
        chunks: Chunks,
    ) -> Float[Array, "b s y x d"]:
        dim = x.shape[-1]
        normal = ChunkNorm(self.groups, name="norm")(x, chunks)
        scale = Linear(dim, kernel_init=uniform, name="scale")(z)
        bias = Linear(dim, kernel_init=uniform, name="bias")(z)
        return normal * enlarge(scale, x.shape) + enlarge(bias, x.shape)


def enlarge(
    z: Float[Array, "b t h w d"], shape: tuple[int, ...]
) -> Float[Array, "b s y x d"]:
    """Each value repeated to fill the shape; of odd frames, the first once."""
    odd = shape[1] % 2
    f = (shape[1] - odd) // max(z.shape[1] - odd, 1)
    z = first_and_rest(z[:, :odd], jnp.repeat(z[:, odd:], f, 1))
    p, q = shape[2] // z.shape[2], shape[3] // z.shape[3]
    return repeat(z, "b t h w d -> b t (h p) (w q) d", p=p, q=q)


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, added to the input or its projection.

    z: the latents, in the decoder, whose norms read them.
    """

    features: int
    groups: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b s y x d"],
        z: Float[Array, "b t h w c"] | None,
        chunks: Chunks,
    ) -> Float[Array, "b s y x e"]:
        def norm(y: Array, name: str) -> Array:
            if z is None:
                return ChunkNorm(self.groups, name=name)(y, chunks)
            return SpatialNorm(self.groups, name=name)(y, z, chunks)

        y = HeldConv(self.features, name="conv_1")(nn.silu(norm(x, "norm_1")))
        y = HeldConv(self.features, name="conv_2")(nn.silu(norm(y, "norm_2")))
        if x.shape[-1] != self.features:
            x = Linear(self.features, kernel_init=uniform, name="skip")(x)
        return x + y


class Level(nn.Module):
    """The residual blocks of one resolution."""

    features: int
    blocks: int
    groups: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b s y x d"],
        z: Float[Array, "b t h w c"] | None,
        chunks: Chunks,
    ) -> Float[Array, "b s y x e"]:
        for i in range(self.blocks):
            block = Residual(self.features, self.groups, name=f"block_{i}")
            x = block(x, z, chunks)
        return x


class Encoder(nn.Module):
    """Videos to `features` per latent. Level 0 is the finest, here and below."""

    codec: "LevelledCodec"

    @nn.compact
    def __call__(self, x: Float[Array, "b s y x c"]) -> Float[Array, "b t h w e"]:
        own = self.codec
        chunks = own.cut(x.shape[1], 8)
        x = HeldConv(own.widths[0], name="in")(x)
        for i, width in enumerate(own.widths):
            level = Level(width, own.blocks, own.groups, name=f"level_{i}")
            x = level(x, None, chunks)
            if i == len(own.widths) - 1:
                break
            if i < own.halvings:
                odd = x.shape[1] % 2
                pairs = reduce(x[:, odd:], "b (t f) h w d -> b t h w d", "mean", f=2)
                x = first_and_rest(x[:, :odd], pairs)
                chunks = Chunks(-(-chunks.first // 2), chunks.rest)
            conv = Conv(width, stride=2, padding=(0, 1), name=f"shrink_{i}")
            x = each_frame(conv, x)
        x = Level(own.widths[-1], 2, own.groups, name="middle")(x, None, chunks)
        x = nn.silu(ChunkNorm(own.groups, name="norm")(x, chunks))
        return HeldConv(2 * own.latent_channels, name="out")(x)


class Decoder(nn.Module):
    """Latents to videos."""

    codec: "LevelledCodec"

    @nn.compact
    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b s y x e"]:
        own, last = self.codec, len(self.codec.widths) - 1
        alone, chunks = own.alone(z.shape[1]), own.cut(z.shape[1], 2)
        x = HeldConv(own.widths[-1], name="in")(z)
        x = Level(own.widths[-1], 2, own.groups, name="middle")(x, z, chunks)
        for i, width in reversed(tuple(enumerate(own.widths))):
            level = Level(width, own.blocks + 1, own.groups, name=f"level_{i}")
            x = level(x, z, chunks)
            if i == 0:
                break
            if last - i < own.halvings:
                x = first_and_rest(x[:, :alone], jnp.repeat(x[:, alone:], 2, 1))
                chunks = Chunks(2 * chunks.first - alone, chunks.rest)
            x = each_frame(Conv(width, name=f"grow_{i}"), each_frame(double, x))
        x = nn.silu(SpatialNorm(own.groups, name="norm")(x, z, chunks))
        return HeldConv(own.channels, name="out")(x)


class LevelledCodec(VideoCodec):
    """Codecs of these layers, which differ in where a clip is cut.

    Fields are those of `AutoencoderKLCogVideoX`.
    """

    channels: int
    latent_channels: int
    widths: tuple[int, ...]
    blocks: int
    groups: int
    time_factor: int
    dtype: Literal["float32", "bfloat16"]

    def cut(self, frames: int, size: int) -> Chunks:
        """The chunks, of about `size` frames, that a norm takes by themselves."""
        raise NotImplementedError

    def alone(self, latents: int) -> int:
        """How many latents, 0 or 1, decode to one frame each."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if not self.widths or any(width % self.groups for width in self.widths):
            raise ValueError(
                f"widths are {self.widths}, but each must be a multiple of groups, "
                f"{self.groups}"
            )
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}, but it must be at least 1")
        if self.time_factor not in (1, 2, 4, 8) or self.halvings >= len(self.widths):
            raise ValueError(
                f"time_factor is {self.time_factor}, but it must be 1, 2, 4 or 8, and "
                f"at most {2 ** (len(self.widths) - 1)} with {len(self.widths)} widths"
            )
        check_statistics(self)

    @property
    def halvings(self) -> int:
        """How many times the frames are halved."""
        return self.time_factor.bit_length() - 1

    @property
    def factor(self) -> Grid:
        side = 2 ** (len(self.widths) - 1)
        return (self.time_factor, side, side)

    def _latents(self, frames: int) -> int:
        if frames < 1:
            raise ValueError(f"the video has {frames} frames, but it must have some")
        for _ in range(self.halvings):
            frames = -(-frames // 2)
        return frames

    def _frames(self, latents: int) -> int:
        alone = self.alone(latents)
        return alone + (latents - alone) * self.time_factor

    def init(self, key: Key) -> Params:
        """Parameters, initialised as torch does, but biases are zero."""
        encoder, decoder = jax.random.split(key)
        side = self.factor[1]
        video = jnp.zeros((1, 1, side, side, self.channels))
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
        moments = call(Encoder(self), params["encoder"], x.astype(self.dtype))
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
        return Posterior(mean, logvar.clip(-30, 20))

    def decode(
        self, params: Params, z: Float[Array, "b t h w c"]
    ) -> Float[Array, "b s y x e"]:
        """Videos, about in [-1, 1], of latents as `encode` gives them."""
        check_video_latents(self, z)
        z = z.astype(self.dtype)
        return call(Decoder(self), params["decoder"], z).astype(jnp.float32)


@dataclass(frozen=True)
class AutoencoderKLCogVideoX(LevelledCodec):
    """A causal variational autoencoder of videos (Yang et al., 2024, section 2.1).

    channels: of videos. latent_channels: of latents.
    widths: of the levels, the finest first; each but the last halves height and width.
    blocks: residual blocks a level in the encoder; the decoder has one more.
    groups: of every group norm.
    time_factor: frames for each latent, 1, 2, 4 or 8. The encoder's finest levels
        halve the frames, and the decoder's coarsest double them.
    scaling_factor: what `normalise` does.
    sample_size: rows and columns of the training videos; force_upcast: whether half
        precision overflows; invert_scale_latents: whether the latents of a first frame
        that is given are divided by the scaling factor instead. Read by no code here,
        kept for who runs or saves the codec.
    dtype: compute dtype. Parameters stay float32; norms' statistics and outputs are
        float32 always.

    The published code works on chunks of eight frames (two latents), of which the
    first takes the remainder too, and keeps the last frames that each convolution saw.
    The convolutions of the whole clip are the same; but group norms read a chunk, so
    the numbers depend on the cut, which is done here for the norms alone. The whole
    clip is held in memory. Only in the first chunk no later frame changes an earlier
    one: a norm tells each frame of all its chunk.

    A clip of 1, 8n or 8n + 1 frames decodes to as many. Others can be encoded, as
    published, but decode to another number of frames: see `data_grid`.

    Raises ValueError, also for videos and latents of another shape.
    Source: THUDM/CogVideo, sat/vae_modules/cp_enc_dec.py, as in diffusers 0.42,
    models/autoencoders/autoencoder_kl_cogvideox.py.
    """

    shift_factor: ClassVar[None] = None
    latents_mean: ClassVar[None] = None
    latents_std: ClassVar[None] = None

    channels: int = 3
    latent_channels: int = 16
    widths: tuple[int, ...] = (128, 256, 256, 512)
    blocks: int = 3
    groups: int = 32
    time_factor: int = 4
    scaling_factor: float = 1.15258426
    sample_size: tuple[int, int] = (480, 720)
    force_upcast: bool = True
    invert_scale_latents: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def cut(self, frames: int, size: int) -> Chunks:
        """The first chunk takes the remainder too."""
        rest = max(frames // size, 1) - 1
        return Chunks(frames - size * rest, rest)

    def alone(self, latents: int) -> int:
        """The first of an odd number."""
        return latents % 2


def cogvideox_vae(scaling_factor: float = 1.15258426) -> AutoencoderKLCogVideoX:
    """Of CogVideoX: 216 M parameters, 4 x 8 x 8 to 16 channels.

    scaling_factor: that of the 2B model; of the 5B models it is 0.7.
    """
    return AutoencoderKLCogVideoX(scaling_factor=scaling_factor)
