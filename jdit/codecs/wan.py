# SPDX-License-Identifier: Apache-2.0
"""The causal autoencoder of videos of Wan 2.1 and 2.2, and of Qwen-Image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jax import lax

from jdit import ops
from jdit.codecs.base import Posterior, check_statistics
from jdit.codecs.layers import double
from jdit.codecs.video import Grid, VideoCodec, check_video, check_video_latents
from jdit.codecs.video_layers import Conv3d, each_frame, first_and_rest
from jdit.conv import Conv, uniform
from jdit.linear import Linear, call, leaf
from jdit.typing import Array, Float, Key, Params


class UnitNorm(nn.Module):
    """`scale x sqrt(d) / |x|` over the channels; parameter `scale` (`d`).

    An RMS norm that adds nothing to the square: zero stays zero, with no gradient.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = leaf(self, "scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        square = jnp.square(y).sum(-1, keepdims=True)
        y = y * lax.rsqrt(jnp.maximum(square, 1e-24)) * x.shape[-1] ** 0.5
        return (y * scale).astype(x.dtype)


class Residual(nn.Module):
    """Norm, SiLU, causal convolution, twice, added to the input or its projection."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w e"]:
        y = nn.silu(UnitNorm(name="norm_1")(x))
        y = Conv3d(self.features, name="conv_1")(y)
        y = nn.silu(UnitNorm(name="norm_2")(y))
        y = Conv3d(self.features, name="conv_2")(y)
        if x.shape[-1] != self.features:
            x = Linear(self.features, kernel_init=uniform, name="skip")(x)
        return x + y


class FrameAttention(nn.Module):
    """Every pixel attends to every pixel of its frame, one head, added to the input."""

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        b, _, h, _, dim = x.shape
        y = rearrange(UnitNorm(name="norm")(x), "b t h w d -> (b t) 1 (h w) d")
        qkv = Linear(3 * dim, kernel_init=uniform, name="qkv")(y)
        y = ops.attention(*jnp.split(qkv, 3, -1))
        y = Linear(dim, kernel_init=uniform, name="out")(y)
        return x + rearrange(y, "(b t) 1 (h w) d -> b t h w d", b=b, h=h)


class Middle(nn.Module):
    """Two residual blocks with attention in between."""

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        x = Residual(x.shape[-1], name="block_0")(x)
        x = FrameAttention(name="attention_0")(x)
        return Residual(x.shape[-1], name="block_1")(x)


class Shrink(nn.Module):
    """Half the height and width; with `time`, also half the frames after the first.

    The first frame stays, and each later one reads two frames and the one before.
    """

    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b s y x d"]:
        conv = Conv(x.shape[-1], stride=2, padding=(0, 1), name="conv")
        x = each_frame(conv, x)
        if not self.time or x.shape[1] == 1:
            return x
        none = ((0, 0),) * 3
        time = Conv3d(x.shape[-1], (3, 1, 1), (2, 1, 1), none, name="time")
        return first_and_rest(x[:, :1], time(x))


class Grow(nn.Module):
    """Twice the height and width; with `time`, also two frames for each but the first.

    Those two read their own frame and the two before it, but never the first: the
    published code starts the history of this convolution anew after it.
    """

    features: int
    time: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b s y x e"]:
        if self.time and x.shape[1] > 1:
            pairs = Conv3d(2 * x.shape[-1], (3, 1, 1), name="time")(x[:, 1:])
            rest = rearrange(pairs, "b t h w (p d) -> b (t p) h w d", p=2)
            x = first_and_rest(x[:, :1], rest)
        return each_frame(Conv(self.features, name="conv"), each_frame(double, x))


class Level(nn.Module):
    """The residual blocks of one resolution."""

    features: int
    blocks: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w e"]:
        for i in range(self.blocks):
            x = Residual(self.features, name=f"block_{i}")(x)
        return x


def average(
    x: Float[Array, "b t h w d"], features: int, time: int, side: int
) -> Float[Array, "b s y x e"]:
    """The shortcut around a level of the encoder of Wan 2.2: means of neighbours.

    Frames are grouped from the last, and a zero frame completes the first group.
    """
    missing = -x.shape[1] % time
    x = jnp.pad(x, ((0, 0), (missing, 0), (0, 0), (0, 0), (0, 0)))
    pattern = "b (t f) (h p) (w q) d -> b t h w (d f p q)"
    x = rearrange(x, pattern, f=time, p=side, q=side)
    return reduce(x, "b t h w (e g) -> b t h w e", "mean", e=features)


def duplicate(
    x: Float[Array, "b t h w d"], features: int, time: int, side: int
) -> Float[Array, "b s y x e"]:
    """The shortcut around a level of the decoder of Wan 2.2: copies of neighbours."""
    copies = features * time * side**2 // x.shape[-1]
    x = repeat(x, "b t h w d -> b t h w (d r)", r=copies)
    pattern = "b t h w (e f p q) -> b (t f) (h p) (w q) e"
    return rearrange(x, pattern, f=time, p=side, q=side)[:, time - 1 :]


class Encoder(nn.Module):
    """Videos to `features` per latent. Level 0 is the finest, here and below."""

    codec: "AutoencoderKLWan"

    @nn.compact
    def __call__(self, x: Float[Array, "b s y x c"]) -> Float[Array, "b t h w e"]:
        own = self.codec
        x = Conv3d(own.width, name="in")(x)
        for i, multiplier in enumerate(own.multipliers):
            width, last = multiplier * own.width, i == len(own.multipliers) - 1
            time = not last and own.halves_time[i]
            y = Level(width, own.blocks, name=f"level_{i}")(x)
            if not last:
                y = Shrink(time, name=f"shrink_{i}")(y)
            if own.shortcuts:
                y = y + average(x, width, 1 + time, 2 - last)
            x = y
        x = Middle(name="middle")(x)
        x = nn.silu(UnitNorm(name="norm")(x))
        return Conv3d(2 * own.latent_channels, name="out")(x)


class Decoder(nn.Module):
    """Latents to videos."""

    codec: "AutoencoderKLWan"

    @nn.compact
    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b s y x e"]:
        own = self.codec
        widths = [m * (own.decoder_width or own.width) for m in own.multipliers]
        x = Middle(name="middle")(Conv3d(widths[-1], name="in")(z))
        for i, width in reversed(tuple(enumerate(widths))):
            y = Level(width, own.blocks + 1, name=f"level_{i}")(x)
            if i > 0:
                time = own.halves_time[i - 1]
                features = width if own.shortcuts else width // 2
                y = Grow(features, time, name=f"grow_{i}")(y)
                if own.shortcuts:
                    y = y + duplicate(x, width, 1 + time, 2)
            x = y
        x = nn.silu(UnitNorm(name="norm")(x))
        return Conv3d(own.channels * own.patch**2, name="out")(x)


_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class AutoencoderKLWan(VideoCodec):
    """A causal variational autoencoder of videos (Wan, 2025, section 4.1).

    channels: of videos. latent_channels: of latents.
    width, multipliers: a level has `width multiplier` channels, the finest first; each
        level but the last halves height and width.
    decoder_width: of the decoder, if another.
    blocks: residual blocks a level in the encoder; the decoder has one more.
    halves_time: for each level but the last, whether it also halves the frames.
    shortcuts: whether each level is added to a resized copy of its input (Wan 2.2).
    patch: pixels a side that are joined into channels beforehand (Wan 2.2).
    latents_mean, latents_std: what `normalise` does.
    dtype: compute dtype. Parameters stay float32; norms, softmax and outputs are
        float32 always.

    The published code streams: the first frame, then four at a time (one latent at a
    time to decode), with a cache of each convolution's last frames. Here the whole
    clip is one convolution, which gives the same numbers: norms and attention read one
    position and one frame, so nothing else sees the chunks, and `Shrink` and `Grow`
    say what the cache does to the first frame. It holds the whole clip in memory.

    Raises ValueError, also for videos and latents of another shape, and for frames
    that are not 1 more than a multiple of `factor[0]`.
    Source: Wan-Video/Wan2.1, wan/modules/vae.py, and Wan-Video/Wan2.2, vae2_2.py, as
    in diffusers 0.42, models/autoencoders/autoencoder_kl_wan.py.
    """

    scaling_factor: ClassVar[float] = 1.0
    shift_factor: ClassVar[None] = None

    channels: int = 3
    latent_channels: int = 16
    width: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    decoder_width: int | None = None
    blocks: int = 2
    halves_time: tuple[bool, ...] = (False, True, True)
    shortcuts: bool = False
    patch: int = 1
    latents_mean: tuple[float, ...] | None = _MEAN
    latents_std: tuple[float, ...] | None = _STD
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if (
            len(self.multipliers) < 1
            or len(self.halves_time) != len(self.multipliers) - 1
        ):
            raise ValueError(
                f"halves_time is {self.halves_time}, but it must have one value less "
                f"than multipliers, {self.multipliers}"
            )
        if self.blocks < 1 or self.patch < 1:
            raise ValueError(
                f"blocks is {self.blocks} and patch {self.patch}, but both must be at "
                "least 1"
            )
        if self.shortcuts and not self._resizes():
            raise ValueError(
                f"multipliers are {self.multipliers}, but with shortcuts the values "
                "that enter a level must divide into its channels"
            )
        check_statistics(self)

    @property
    def factor(self) -> Grid:
        side = self.patch * 2 ** len(self.halves_time)
        return (2 ** sum(self.halves_time), side, side)

    def _resizes(self) -> bool:
        """Whether `average` and `duplicate` can make each level's channels."""
        m, sizes = self.multipliers, [4 * (1 + time) for time in self.halves_time]
        down = zip((1, *m), (*sizes, 1), m, strict=False)
        up = zip((*m[2:], m[-1]), sizes, m[1:], strict=True)
        fits = [not enters * size % width for enters, size, width in down]
        return all(fits + [not width * size % enters for enters, size, width in up])

    def init(self, key: Key) -> Params:
        """Parameters, initialised as torch does, but biases are zero."""
        keys, c = jax.random.split(key, 4), self.latent_channels
        frames, side = 1 + self.factor[0], 2 ** len(self.halves_time)
        video = jnp.zeros((1, frames, side, side, self.channels * self.patch**2))
        latents = jnp.zeros((1, 2, 1, 1, c))
        moments = jnp.concatenate([latents, latents], -1)
        parts: dict[str, tuple[nn.Module, Array]] = {
            "encoder": (Encoder(self), video),
            "quant": (Linear(2 * c, kernel_init=uniform), moments),
            "post_quant": (Linear(c, kernel_init=uniform), latents),
            "decoder": (Decoder(self), latents),
        }
        return {
            name: part.init(key, x)["params"]
            for key, (name, (part, x)) in zip(keys, parts.items(), strict=True)
        }

    def encode(self, params: Params, x: Float[Array, "b s y x c"]) -> Posterior:
        """The distribution of the latents of videos in [-1, 1].

        The logarithm of the variance is kept within [-30, 20], as published.
        """
        check_video(self, x)
        p = self.patch
        pattern = "b t (h p) (w q) c -> b t h w (c q p)"
        x = rearrange(x.astype(self.dtype), pattern, p=p, q=p)
        moments = call(Encoder(self), params["encoder"], x)
        moments = call(Linear(moments.shape[-1]), params["quant"], moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
        return Posterior(mean, logvar.clip(-30, 20))

    def decode(
        self, params: Params, z: Float[Array, "b t h w c"]
    ) -> Float[Array, "b s y x e"]:
        """Videos, clipped to [-1, 1], of latents as `encode` gives them."""
        check_video_latents(self, z)
        z = z.astype(self.dtype)
        z = call(Linear(self.latent_channels), params["post_quant"], z)
        x = call(Decoder(self), params["decoder"], z).astype(jnp.float32)
        pattern = "b t h w (c q p) -> b t (h p) (w q) c"
        return rearrange(x, pattern, p=self.patch, q=self.patch).clip(-1, 1)


@dataclass(frozen=True)
class AutoencoderKLQwenImage(AutoencoderKLWan):
    """Wan 2.1's network with weights of its own (Qwen-Image, 2025, section 2.3).

    Its images are videos of one frame: see `Stills`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_width or self.shortcuts or self.patch != 1:
            raise ValueError(
                "decoder_width, shortcuts and patch are those of Wan 2.1 in a "
                "Qwen-Image codec, but others were given"
            )


def wan_vae() -> AutoencoderKLWan:
    """Of Wan 2.1: 127 M parameters, 4 x 8 x 8 to 16 channels."""
    return AutoencoderKLWan()


def wan_2_2_vae(
    mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> AutoencoderKLWan:
    """Of Wan 2.2's 5B model: 705 M parameters, 4 x 16 x 16 to 48 channels.

    mean and std are per channel, as the published config.json holds them.
    """
    return AutoencoderKLWan(
        latent_channels=48,
        width=160,
        decoder_width=256,
        shortcuts=True,
        patch=2,
        latents_mean=mean,
        latents_std=std,
    )


def qwen_image_vae() -> AutoencoderKLQwenImage:
    """Of Qwen-Image: 127 M parameters, 8 x 8 pixels of an image to 16 channels."""
    return AutoencoderKLQwenImage()
