# SPDX-License-Identifier: Apache-2.0
"""The causal autoencoder of videos of HunyuanVideo."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import lax

from jdit import ops
from jdit.codecs.base import Posterior, check_statistics
from jdit.codecs.layers import GroupNorm
from jdit.codecs.video import Grid, VideoCodec, check_video, check_video_latents
from jdit.codecs.video_layers import HeldConv, first_and_rest, over_frames
from jdit.conv import uniform
from jdit.linear import Linear, call
from jdit.typing import Array, Float, Key, Params


class Residual(nn.Module):
    """Norm, SiLU, causal convolution, twice, added to the input or its projection."""

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w e"]:
        y = over_frames(GroupNorm(self.groups, name="norm_1"), x)
        y = HeldConv(self.features, hold_sides=True, name="conv_1")(nn.silu(y))
        y = over_frames(GroupNorm(self.groups, name="norm_2"), y)
        y = HeldConv(self.features, hold_sides=True, name="conv_2")(nn.silu(y))
        if x.shape[-1] != self.features:
            x = Linear(self.features, kernel_init=uniform, name="skip")(x)
        return x + y


class ClipAttention(nn.Module):
    """Every pixel attends to its frame and those before it, one head, added.

    A frame of queries at a time.
    """

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        b, t, h, w, dim = x.shape
        y = over_frames(GroupNorm(self.groups, name="norm"), x)
        qkv = Linear(3 * dim, kernel_init=uniform, name="qkv")(y)
        q, k, v = jnp.split(qkv, 3, -1)
        k, v = (rearrange(part, "b t h w d -> b 1 (t h w) d") for part in (k, v))
        frame = jnp.arange(t * h * w) // (h * w)

        def attend(here: tuple[Array, Array]) -> Array:
            i, queries = here
            seen = jnp.broadcast_to(frame <= i, (b, t * h * w))
            return ops.attention(queries, k, v, mask=seen)

        queries = rearrange(q, "b t h w d -> t b 1 (h w) d")
        y = lax.map(attend, (jnp.arange(t), queries))
        y = rearrange(y, "t b 1 (h w) d -> b t h w d", h=h)
        return x + Linear(dim, kernel_init=uniform, name="out")(y)


class Level(nn.Module):
    """The residual blocks of one resolution."""

    features: int
    blocks: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w e"]:
        for i in range(self.blocks):
            x = Residual(self.features, self.groups, name=f"block_{i}")(x)
        return x


class Middle(nn.Module):
    """Two residual blocks, with attention in between if `attend`."""

    groups: int
    attend: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b t h w d"]:
        x = Residual(x.shape[-1], self.groups, name="block_0")(x)
        if self.attend:
            x = ClipAttention(self.groups, name="attention_0")(x)
        return Residual(x.shape[-1], self.groups, name="block_1")(x)


class Encoder(nn.Module):
    """Videos to `features` per latent. Level 0 is the finest, here and below."""

    codec: "AutoencoderKLHunyuanVideo"

    @nn.compact
    def __call__(self, x: Float[Array, "b s y x c"]) -> Float[Array, "b t h w e"]:
        own, last = self.codec, len(self.codec.widths) - 1
        x = HeldConv(own.widths[0], hold_sides=True, name="in")(x)
        for i, width in enumerate(own.widths):
            x = Level(width, own.blocks, own.groups, name=f"level_{i}")(x)
            if i < last:
                stride = (1 + (i >= last - 2), 2, 2)
                conv = HeldConv(width, True, stride, True, name=f"shrink_{i}")
                x = conv(x)
        x = Middle(own.groups, own.attention, name="middle")(x)
        x = nn.silu(over_frames(GroupNorm(own.groups, name="norm"), x))
        return HeldConv(2 * own.latent_channels, hold_sides=True, name="out")(x)


class Decoder(nn.Module):
    """Latents to videos."""

    codec: "AutoencoderKLHunyuanVideo"

    @nn.compact
    def __call__(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b s y x e"]:
        own = self.codec
        x = HeldConv(own.widths[-1], hold_sides=True, name="in")(z)
        x = Middle(own.groups, own.attention, name="middle")(x)
        for i, width in reversed(tuple(enumerate(own.widths))):
            x = Level(width, own.blocks + 1, own.groups, name=f"level_{i}")(x)
            if i > 0:
                rest = jnp.repeat(x[:, 1:], 1 + (i <= 2), 1)
                x = first_and_rest(x[:, :1], rest)
                x = repeat(x, "b t h w d -> b t (h p) (w q) d", p=2, q=2)
                x = HeldConv(width, hold_sides=True, name=f"grow_{i}")(x)
        x = nn.silu(over_frames(GroupNorm(own.groups, name="norm"), x))
        return HeldConv(own.channels, hold_sides=True, name="out")(x)


def overlapped(
    part: Callable[[Array], Array], x: Float[Array, "b t ..."], span: int, step: int
) -> Float[Array, "b s ..."]:
    """A causal part over a long clip, `span` frames from every `step`-th on.

    Each piece after the first drops its first result, which had no past, and its next
    ones are blended linearly with the last of the piece before. x has at least `span`
    frames. The pieces of full length run one at a time in a scan; the last, which is
    always shorter with the spans used here, after them.
    """
    n = x.shape[1]
    starts = [s for s in range(0, n, step) if n - s > 1]  # one frame would be dropped
    full = [s for s in starts if s + span <= n]
    pieces = lax.map(
        lambda start: part(lax.dynamic_slice_in_dim(x, start, span, 1)),
        jnp.asarray(full),
    )
    last = part(x[:, starts[-1] :])[:, 1:]
    first, rest = pieces[0], pieces[:, :, 1:]
    made = rest.shape[2]
    keep = made * step // (span - 1)
    soft = made - keep
    rise = jnp.arange(soft, dtype=x.dtype).reshape(-1, 1, 1, 1) / soft

    def blended(before: Array, after: Array) -> Array:
        joint = before[..., keep:, :, :, :] * (1 - rise)
        joint = joint + after[..., :soft, :, :, :] * rise
        return jnp.concatenate([joint, after[..., soft:keep, :, :, :]], -4)

    inner = rearrange(blended(rest[:-1], rest[1:]), "n b t ... -> b (n t) ...")
    return jnp.concatenate([first[:, : keep + 1], inner, blended(rest[-1], last)], 1)


@dataclass(frozen=True)
class AutoencoderKLHunyuanVideo(VideoCodec):
    """A causal variational autoencoder of videos (Kong et al., 2024, section 4.1).

    channels: of videos. latent_channels: of latents.
    widths: of the levels, the finest first; each but the last halves height and width,
        and the last two of these also the frames. (The decoder doubles the frames at
        its two finest steps.)
    blocks: residual blocks a level in the encoder; the decoder has one more.
    groups: of every group norm. attention: whether the middle has attention.
    scaling_factor: what `normalise` does.
    dtype: compute dtype. Parameters stay float32; norms, softmax and outputs are
        float32 always.

    A clip of more than 16 frames is encoded and decoded in pieces of 17, one from every
    12th frame on, which are blended, as diffusers does unless told otherwise. Group
    norms and attention read a whole piece, so one pass over the clip would differ.

    Raises ValueError, also for videos and latents of another shape, and for frames
    that are not 1 more than a multiple of 4.
    Source: Tencent/HunyuanVideo, hyvideo/vae/, as in diffusers 0.42,
    models/autoencoders/autoencoder_kl_hunyuan_video.py.
    """

    shift_factor: ClassVar[None] = None
    latents_mean: ClassVar[None] = None
    latents_std: ClassVar[None] = None

    channels: int = 3
    latent_channels: int = 16
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    attention: bool = True
    scaling_factor: float = 0.476986
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if len(self.widths) < 3 or any(width % self.groups for width in self.widths):
            raise ValueError(
                f"widths are {self.widths}, but they must be at least 3 multiples of "
                f"groups, {self.groups}"
            )
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}, but it must be at least 1")
        check_statistics(self)

    @property
    def factor(self) -> Grid:
        side = 2 ** (len(self.widths) - 1)
        return (4, side, side)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as torch does, but biases are zero."""
        keys, c = jax.random.split(key, 4), self.latent_channels
        side = self.factor[1]
        video = jnp.zeros((1, 1, side, side, self.channels))
        latents = jnp.zeros((1, 1, 1, 1, c))
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

        def encode(x: Array) -> Array:
            moments = call(Encoder(self), params["encoder"], x)
            return call(Linear(moments.shape[-1]), params["quant"], moments)

        x = x.astype(self.dtype)
        moments = overlapped(encode, x, 17, 12) if x.shape[1] > 16 else encode(x)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
        return Posterior(mean, logvar.clip(-30, 20))

    def decode(
        self, params: Params, z: Float[Array, "b t h w c"]
    ) -> Float[Array, "b s y x e"]:
        """Videos, about in [-1, 1], of latents as `encode` gives them."""
        check_video_latents(self, z)

        def decode(z: Array) -> Array:
            z = call(Linear(self.latent_channels), params["post_quant"], z)
            return call(Decoder(self), params["decoder"], z)

        z = z.astype(self.dtype)
        x = overlapped(decode, z, 5, 3) if z.shape[1] > 4 else decode(z)
        return x.astype(jnp.float32)


def hunyuan_video_vae() -> AutoencoderKLHunyuanVideo:
    """Of HunyuanVideo: 246 M parameters, 4 x 8 x 8 to 16 channels."""
    return AutoencoderKLHunyuanVideo()
