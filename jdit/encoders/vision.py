# SPDX-License-Identifier: Apache-2.0
"""Vision transformers as image encoders: CLIP, SigLIP, DINOv2."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jdit.encoders.base import (
    DType,
    Encoding,
    check,
    check_heads,
    layer_index,
    linear,
    scale,
)
from jdit.encoders.layers import (
    Activation,
    Attention,
    Layer,
    LayerNorm,
    Mlp,
    gelu,
    init_layers,
    norm_of,
    run,
)
from jdit.encoders.resample import resize_positions
from jdit.linear import Linear, call, contract
from jdit.tokens import Patches
from jdit.typing import Array, Float, Key, Params

Values = tuple[float, float, float]
Readout = Literal["class", "class of all", "attention", "none"]

IMAGENET_MEAN: Values = (0.485, 0.456, 0.406)
IMAGENET_STD: Values = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VisionTransformer:
    """A pre-norm transformer over image patches, read at a hidden layer.

    size, patch: side of the image that the positions were learned for, and of a patch.
        Images of other sizes are read with positions resized. What is left over at the
        right and below, less than a patch, is not read.
    dim, depth, heads, hidden: of the stream and its MLPs. activation, gated: of these.
    mean, std: images in [-1, 1] become `((x + 1) / 2 - mean) / std` first.
    class_token: a learned first token, with a position. registers: learned tokens
        behind it, without positions (Darcet et al., 2023).
    mask_token: there is a token that stood for hidden patches in training; kept, not
        used. patch_bias, qkv_bias: whether these projections have biases.
    entry_norm: a norm before the first layer (CLIP). layer_scale: see `Layer.scaled`.
    readout: how the pooled vector is made of the last layer: from the "class" token,
        normed, while tokens are not (CLIP); from the "class of all" tokens, normed
        (DINOv2); by "attention" of a learned query to all of them, normed (SigLIP); or
        "none", and tokens are normed.
    projection: width of the pooled vector; None leaves it as it is (dim).
    antialias: how positions are resized, see `bicubic`.
    layer: which hidden state the tokens are: None the last as above; else in
        transformers' count, 0 before the first layer, -2 before the last: never normed.

    Source: transformers 5.23, models/{clip,siglip,dinov2,dinov2_with_registers}.
    """

    size: int = 224
    patch: int = 14
    channels: int = 3
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    hidden: int = 4096
    activation: Activation = gelu
    gated: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    class_token: bool = True
    registers: int = 0
    mask_token: bool = False
    patch_bias: bool = True
    qkv_bias: bool = True
    entry_norm: bool = False
    layer_scale: bool = False
    readout: Readout = "class of all"
    projection: int | None = None
    antialias: bool = False
    layer: int | None = None
    eps: float = 1e-6
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        check(self, "size", "patch", "channels", "dim", "depth", "heads", "hidden")
        check_heads(self, "dim", "heads")
        if self.size < self.patch:
            raise ValueError(f"size {self.size} is less than one patch, {self.patch}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean and std have {len(self.mean)} and {len(self.std)} values, but "
                f"channels is {self.channels}"
            )
        if self.readout not in ("class", "class of all", "attention", "none"):
            raise ValueError(
                f"readout is {self.readout!r}, but it must be 'class', 'class of all', "
                "'attention' or 'none'"
            )
        if self.readout.startswith("class") and not self.class_token:
            raise ValueError(f"readout is {self.readout!r}, but class_token is False")
        if self.layer is not None:
            layer_index(self.layer, self.depth)

    @property
    def features(self) -> int:
        return self.dim

    @property
    def tokens(self) -> Patches:
        """The patches of an image of the native size, without a margin."""
        side = self.size // self.patch * self.patch
        return Patches((side, side), self.patch)

    @property
    def block(self) -> Layer:
        """One layer, as parts."""
        return Layer(
            Attention(self.heads, self.dim // self.heads, bias=self.qkv_bias),
            Mlp(self.hidden, self.activation, self.gated),
            norm_of(LayerNorm, self.eps),
            scaled=self.layer_scale,
        )

    def init(self, key: Key) -> Params:
        """Random parameters."""
        patch, place, layers, extra, head, out = jax.random.split(key, 6)
        volume = self.channels * self.patch**2
        rows = self.tokens.count + self.class_token

        def normal(key: Key, *shape: int) -> Array:
            return 0.02 * jax.random.normal(key, shape)

        params: Params = {
            "patch": linear(patch, volume, self.dim, self.patch_bias),
            "position": {"table": normal(place, rows, self.dim)},
            "layers": init_layers(self.block, layers, self.depth, self.dim),
            "norm": scale(self.dim),
        }
        if self.class_token:
            params["class"] = normal(extra, self.dim)
        if self.mask_token:
            params["mask"] = jnp.zeros(self.dim)
        if self.registers:
            params["registers"] = normal(extra, self.registers, self.dim)
        if self.entry_norm:
            params["entry_norm"] = scale(self.dim)
        if self.readout == "attention":
            params["head"] = self._init_head(head)
        if self.projection:
            params["projection"] = linear(out, self.dim, self.projection, False)
        return params

    def apply(
        self, params: Params, images: Float[Array, "b h w c"], mask: None = None
    ) -> Encoding:
        """Encode images `b h w c` in [-1, 1]; tokens are class, registers, patches."""
        if mask is not None:
            raise ValueError("mask is given, but an image has no padding: pass None")
        first, taps = self._walk(params, images)
        norm, last = LayerNorm(self.eps), taps[-1]
        normed = call(norm, params["norm"], last)
        pooled = None
        if self.readout == "attention":
            pooled = self._attend(params["head"], normed)
        elif self.readout != "none":
            pooled = normed[:, 0]
        if pooled is not None:
            if self.projection:
                pooled = contract(pooled, params["projection"]["kernel"])
            pooled = pooled.astype(jnp.float32)
        tokens = last if self.readout == "class" else normed
        if self.layer is not None:
            stop = layer_index(self.layer, self.depth)
            tokens = taps[stop - 1] if stop else first
        return Encoding(tokens.astype(jnp.float32), pooled)

    def hidden_states(
        self, params: Params, images: Float[Array, "b h w c"]
    ) -> Float[Array, "s b n d"]:
        """What enters the first layer, and what leaves each; none is normalised."""
        first, taps = self._walk(params, images)
        return jnp.concatenate([first[None], taps]).astype(jnp.float32)

    def normalise(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Images in [-1, 1] with the data's mean at 0 and its deviation at 1."""
        mean, std = (jnp.asarray(x, jnp.float32) for x in (self.mean, self.std))
        return ((images.astype(jnp.float32) + 1) / 2 - mean) / std

    def _walk(self, params: Params, images: Array) -> tuple[Array, Array]:
        patches = self._patches(images)
        height, width = patches.grid
        x = self.normalise(images[:, :height, :width])
        x = patches.patchify(x).astype(self.dtype)
        x = call(Linear(self.dim, self.patch_bias), params["patch"], x)
        lead = int(self.class_token)
        table = params["position"]["table"]
        place = resize_positions(
            table[lead:], self.tokens.shape, patches.shape, self.antialias
        )
        x = x + place.astype(x.dtype)
        front = []
        if self.class_token:
            front.append((params["class"] + table[0])[None])
        if self.registers:
            front.append(params["registers"])
        front = [jnp.broadcast_to(y.astype(x.dtype), (len(x), *y.shape)) for y in front]
        x = jnp.concatenate([*front, x], 1)
        if self.entry_norm:
            x = call(LayerNorm(self.eps), params["entry_norm"], x)
        block = self.block
        step = lambda weights, x, _: call(block, weights, x)  # noqa: E731
        return x, run(step, params["layers"], x)[1]

    def _patches(self, images: Array) -> Patches:
        if images.ndim != 4 or images.shape[-1] != self.channels:
            raise ValueError(
                f"images have shape {images.shape}, but they must be (batch, height, "
                f"width, {self.channels})"
            )
        grid = tuple(side // self.patch * self.patch for side in images.shape[1:3])
        if 0 in grid:
            raise ValueError(
                f"images are {images.shape[1]} by {images.shape[2]}, which is less "
                f"than one patch of {self.patch}"
            )
        return Patches(grid, self.patch)

    def _init_head(self, key: Key) -> Params:
        probe, attention, mlp = jax.random.split(key, 3)
        x = jnp.zeros((1, 1, self.dim))
        width = self.dim // self.heads
        return {
            "probe": jax.random.normal(probe, (self.dim,)),
            "attention": Attention(self.heads, width).init(attention, x)["params"],
            "norm": scale(self.dim),
            "mlp": Mlp(self.hidden, self.activation).init(mlp, x)["params"],
        }

    def _attend(self, params: Params, x: Array) -> Float[Array, "b d"]:
        probe = params["probe"].astype(x.dtype)
        query = jnp.broadcast_to(probe, (len(x), 1, self.dim))
        attention = Attention(self.heads, self.dim // self.heads)
        y = call(attention, params["attention"], query, None, None, None, x)
        normed = call(LayerNorm(self.eps), params["norm"], y)
        y = y + call(Mlp(self.hidden, self.activation), params["mlp"], normed)
        return y[:, 0]
