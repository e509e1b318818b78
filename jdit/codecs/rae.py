# SPDX-License-Identifier: Apache-2.0
"""Representation autoencoders: a frozen image encoder, and a decoder of its tokens."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.codecs.base import (
    Posterior,
    check_image,
    check_latents,
    check_statistics,
    denormalise,
    normalise,
)
from jdit.encoders.base import check_heads, linear, scale
from jdit.encoders.layers import Attention, Layer, Mlp, init_layers, norm_of, run
from jdit.encoders.resample import bicubic
from jdit.encoders.vision import VisionTransformer
from jdit.encoders.vision_models import dinov2
from jdit.linear import Linear, call
from jdit.norms import LayerNorm
from jdit.tokens import Patches, sincos
from jdit.typing import Array, Float, Key, Params

EPS = 1e-12
"""Of the decoder's norms."""

GUARD = 1e-5
"""Added to the standard deviations of latents, as diffusers does."""


@dataclass(frozen=True)
class PatchDecoder:
    """A ViT that turns every token of a representation into a patch of pixels.

    As the decoder of MAE (He et al., 2022, section 3), but that nothing is masked: a
    linear layer to its width, a learned class token, which is dropped at the end, fixed
    sin-cos positions, layers, a norm, and a linear layer to the pixels of a patch.

    features: width of the tokens. grid: their rows and columns. patch: pixels a side.
    channels: of images. dim, depth, heads, hidden: of the stream and its MLPs.

    Raises ValueError for sizes that do not fit together.
    Source: bytetriper/RAE a4d18c4, src/stage1/decoders/decoder.py, `GeneralDecoder`.
    """

    features: int = 768
    grid: tuple[int, int] = (16, 16)
    patch: int = 16
    channels: int = 3
    dim: int = 1152
    depth: int = 28
    heads: int = 16
    hidden: int = 4096

    def __post_init__(self) -> None:
        sizes = ("features", "patch", "channels", "dim", "depth", "heads", "hidden")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but it must be at least 1"
                )
        check_heads(self, "dim", "heads")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"grid is {self.grid}, but it must be rows and columns")
        if self.dim % 4:
            raise ValueError(f"dim is {self.dim}, but it must be a multiple of 4")

    @property
    def block(self) -> Layer:
        """One layer."""
        attention = Attention(self.heads, self.dim // self.heads)
        return Layer(attention, Mlp(self.hidden), norm_of(LayerNorm, EPS))

    @property
    def positions(self) -> Float[Array, "n d"]:
        """Zeros for the class token, then the cells row by row."""
        cells = Patches(self.grid, 1).coordinates()
        return jnp.pad(sincos(cells, self.dim), ((1, 0), (0, 0)))

    def init(self, key: Key) -> Params:
        """Random parameters."""
        start, layers, end = jax.random.split(key, 3)
        return {
            "in": linear(start, self.features, self.dim),
            "class": jnp.zeros(self.dim),
            "layers": init_layers(self.block, layers, self.depth, self.dim),
            "norm": scale(self.dim),
            "out": linear(end, self.dim, self.patch**2 * self.channels),
        }

    def apply(
        self, params: Params, tokens: Float[Array, "b n d"]
    ) -> Float[Array, "b y x c"]:
        """Images, float32, computed in the dtype of the tokens."""
        x = call(Linear(self.dim), params["in"], tokens)
        first = jnp.broadcast_to(params["class"].astype(x.dtype), (len(x), 1, self.dim))
        x = jnp.concatenate([first, x], 1) + self.positions.astype(x.dtype)
        block = self.block
        step = lambda weights, x, _: call(block, weights, x)  # noqa: E731
        x = run(step, params["layers"], x)[0]
        x = call(LayerNorm(EPS), params["norm"], x[:, 1:])
        x = call(Linear(self.patch**2 * self.channels), params["out"], x)
        return rearrange(
            x.astype(jnp.float32),
            "b (h w) (p q c) -> b (h p) (w q) c",
            h=self.grid[0],
            p=self.patch,
            q=self.patch,
        )


@dataclass(frozen=True)
class AutoencoderRAE:
    """Tokens of a pretrained encoder as latents (RAE; Zheng et al., 2025).

    Encoding resizes an image to what the encoder reads (bicubic), drops the encoder's
    first tokens (class, registers), norms the others without the encoder's own scale
    and bias, and subtracts and divides by statistics: a mean and a standard deviation
    for each place and channel, measured over a data set. Decoding is `PatchDecoder`, in
    the encoder's own normalisation of pixels. Nothing is sampled.

    encoder: any `VisionTransformer`; what it pools is not read, and neither is its last
        norm, so that the parameters lack "norm".
    decoder: its grid is that of the latents: images have `grid * patch` pixels, and no
        others are read, since statistics have places.
    normalised: whether there are statistics.
    scaling_factor: what `normalise` multiplies with.
    dtype: compute dtype. Parameters stay float32, outputs are float32.

    The decoder learns from noisy latents (`z + sigma noise` before the statistics,
    sigma uniform in [0, 0.8]) by L1, LPIPS and a discriminator on DINO's features; that
    training is not here.

    Raises ValueError, also for images and latents of another shape.
    Source: bytetriper/RAE a4d18c4, src/stage1/rae.py; diffusers 0.42,
    models/autoencoders/autoencoder_rae.py, whose positions differ from the authors' but
    for 16 x 16 latents.
    """

    shift_factor: ClassVar[None] = None
    latents_mean: ClassVar[None] = None
    latents_std: ClassVar[None] = None

    encoder: VisionTransformer = field(default_factory=lambda: dinov2("b", registers=4))
    decoder: PatchDecoder = PatchDecoder()
    normalised: bool = True
    scaling_factor: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        here, there = self.encoder, self.decoder
        if (here.dim, here.channels) != (there.features, there.channels):
            raise ValueError(
                f"decoder has {there.features} features and {there.channels} channels, "
                f"but the encoder's are {here.dim} and {here.channels}"
            )
        check_statistics(self)

    @property
    def channels(self) -> int:
        return self.encoder.channels

    @property
    def latent_channels(self) -> int:
        return self.encoder.dim

    @property
    def factor(self) -> int:
        return self.decoder.patch

    @property
    def tokens(self) -> Patches:
        """The patches that the encoder reads."""
        return self.encoder.tokens

    def init(self, key: Key) -> Params:
        """Random parameters, with statistics that change nothing."""
        first, second = jax.random.split(key)
        encoder = self.encoder.init(first)
        del encoder["norm"]
        params: Params = {"encoder": encoder, "decoder": self.decoder.init(second)}
        if self.normalised:
            shape = (*self.decoder.grid, self.encoder.dim)
            params["statistics"] = {
                "mean": jnp.zeros(shape),
                "std": jnp.full(shape, 1 - GUARD),
            }
        return params

    def encode(self, params: Params, x: Float[Array, "b y x c"]) -> Posterior:
        """The latents of images in [-1, 1], without any variance."""
        check_image(self, x)
        grid = self.decoder.grid
        size = tuple(side * self.factor for side in grid)
        if x.shape[1:3] != size:
            raise ValueError(
                f"x is {x.shape[1]} by {x.shape[2]} pixels, but this codec's grid has "
                f"{size[0]} by {size[1]}"
            )
        x = self._resized(x.astype(jnp.float32))
        encoder = replace(self.encoder, layer=None, dtype=self.dtype)
        bare = {"scale": jnp.ones(encoder.dim), "bias": jnp.zeros(encoder.dim)}
        tokens = encoder.apply({**params["encoder"], "norm": bare}, x).tokens
        first = encoder.registers + encoder.class_token
        z = rearrange(tokens[:, first:], "b (h w) c -> b h w c", h=grid[0])
        if self.normalised:
            own = params["statistics"]
            z = (z - own["mean"]) / (own["std"] + GUARD)
        return Posterior(z, jnp.full_like(z, -jnp.inf))

    def decode(
        self, params: Params, z: Float[Array, "b h w c"]
    ) -> Float[Array, "b y x e"]:
        """Images, about in [-1, 1], of latents as `encode` gives them."""
        check_latents(self, z)
        grid = self.decoder.grid
        if z.shape[1:3] != grid:
            raise ValueError(f"z is {z.shape[1:3]}, but this codec's grid is {grid}")
        if self.normalised:
            own = params["statistics"]
            z = z * (own["std"] + GUARD) + own["mean"]
        tokens = rearrange(z.astype(self.dtype), "b h w c -> b (h w) c")
        x = self.decoder.apply(params["decoder"], tokens)
        mean, std = (jnp.asarray(v) for v in (self.encoder.mean, self.encoder.std))
        return 2 * (x * std + mean) - 1

    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """To what a diffusion model reads."""
        return normalise(self, z)

    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """The inverse of `normalise`."""
        return denormalise(self, z)

    def _resized(self, x: Array) -> Array:
        """The image at the size of which the encoder makes this grid."""
        sizes = [side * self.encoder.patch for side in self.decoder.grid]
        if list(x.shape[1:3]) == sizes:
            return x
        down, right = (
            jnp.asarray(bicubic(side, size))
            for side, size in zip(x.shape[1:3], sizes, strict=True)
        )
        return jnp.einsum("yh,xw,bhwc->byxc", down, right, x)


def rae(encoder: VisionTransformer | None = None, **fields: Any) -> AutoencoderRAE:
    """The published ViT-XL decoder, 16 x 16 patches of 16 pixels, of DINOv2-B's tokens.

    encoder: None is DINOv2-B with registers; published are also decoders of SigLIP 2 B
    and of MAE-B.
    """
    encoder = dinov2("b", registers=4) if encoder is None else encoder
    return AutoencoderRAE(encoder, **fields)
