# SPDX-License-Identifier: Apache-2.0
"""PixArt-alpha and PixArt-Sigma: DiT told by text, one modulation for all layers."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdit.blocks.pixart import (
    AdaLNSingle,
    Caption,
    Compression,
    single_final_init,
    single_final_layer,
    six_vectors,
)
from jdit.conditioning import Labels, LinearClock, Sinusoids, Text, TimeEmbedding
from jdit.conditioning.time import Clock, normal
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.models.dit import DiT
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, sincos
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class Sizes:
    """The size of the image is told beside the time (PixArt-alpha's 1024 px model).

    Conditions may hold "resolution" `b 2` (height and width of the image in pixels)
    and "aspect_ratio" `b` (height over width); without them they are the grid's, at
    `pixels` a side for each of its values.
    """

    pixels: int = 8

    def init(self, key: Key, dim: int, basis: Sinusoids) -> Params:
        keys, one = jax.random.split(key), jnp.zeros(1)
        module = TimeEmbedding(dim // 3, basis)
        return {
            name: module.init(k, one)["params"]
            for name, k in zip(("resolution", "aspect_ratio"), keys, strict=True)
        }

    def apply(
        self,
        params: Params,
        conditions: Conditions,
        grid: tuple[int, ...],
        dim: int,
        basis: Sinusoids,
        batch: int,
    ) -> Float[Array, "b d"]:
        """Embedded height, width and aspect ratio, side by side."""
        size = np.array(grid, np.float32) * self.pixels
        told = {"resolution": size, "aspect_ratio": size[:1] / size[1:]}
        parts = []
        for name, default in told.items():
            value = conditions.get(name)
            if value is None:
                value = jnp.broadcast_to(default, (batch, len(default)))
            shape = jnp.shape(value)
            if shape[:1] != (batch,) or prod(shape[1:]) != len(default):
                raise ValueError(
                    f"conditions[{name!r}] has shape {shape}, but it must hold "
                    f"{len(default)} numbers for each of the {batch} images"
                )
            flat = jnp.asarray(value, jnp.float32).reshape(-1)
            module = TimeEmbedding(dim // 3, basis)
            parts.append(call(module, params[name], flat).reshape(batch, -1))
        return jnp.concatenate(parts, -1)


def span(tokens: Patches, base: int, interpolation: float) -> Float[np.ndarray, "n a"]:
    """Coordinates from 0 to `base / interpolation`, however many tokens there are."""
    scale = np.array(tokens.shape) / base
    at = tokens.coordinates() / scale.astype(np.float32)
    return at / np.float32(interpolation)


@dataclass(frozen=True)
class PixArt(Backbone):
    """A text-conditional DiT with adaLN-single blocks (Chen et al., 2023 and 2024).

    The published weights predict the noise of `Gaussian(DDPMLinear(), "noise")`, with a
    learned variance in the second half of their channels.

    Conditions: "text" `b m e`, the tokens of T5 (alpha: 120, Sigma: 300), "mask" `b m`,
    and, with `sizes`, what `Sizes` says.

    grid, channels, out_channels, patch, dim, depth, heads, mlp_ratio: as in `DiT`.
    base, interpolation: positions run from 0 to `base / interpolation` along each axis,
        whatever the grid; base is the training grid's number of tokens a side.
    sizes: `Sizes()` tells the network the size of the image; None does not. Needs a dim
        that is a multiple of 3.
    compression: of keys and values in deep layers, or None.
    conditioning, clock, basis, dtype, remat, unroll: as in `DiT`.

    Source: PixArt-alpha/PixArt-sigma, diffusion/model/nets/PixArtMS.py.
    """

    grid: tuple[int, ...] = (32, 32)
    channels: int = 4
    out_channels: int | None = 8
    patch: int = 2
    dim: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    base: int = 16
    interpolation: float = 1.0
    sizes: Sizes | None = None
    compression: Compression | None = None
    conditioning: Text = Text(4096)
    clock: Clock = LinearClock(1000.0, -1.0)
    basis: Sinusoids = Sinusoids()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but it must be at least 1")
        if len(self.grid) != 2:
            raise ValueError(f"grid is {self.grid}, but it must have two axes")
        if self.sizes is not None and self.dim % 3:
            raise ValueError(
                f"dim is {self.dim}, but with sizes it must be a multiple of 3: "
                "height, width and aspect ratio get a third each"
            )
        if self.compression is not None:
            if self.compression.layers > self.depth:
                raise ValueError(
                    f"compression.layers is {self.compression.layers}, but the model "
                    f"has {self.depth}"
                )
            if min(self.tokens.shape) < self.compression.ratio:
                raise ValueError(
                    f"compression.ratio is {self.compression.ratio}, but the grid of "
                    f"tokens is {self.tokens.shape}"
                )
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        return prod(self.tokens.size) * (self.out_channels or self.channels)

    @property
    def stages(self) -> tuple[Stage, ...]:
        block = AdaLNSingle(self.dim, self.heads, self.mlp_ratio)
        deep = 0 if self.compression is None else self.compression.layers
        stages = []
        if deep < self.depth:
            stages.append(Stage("blocks", block, self.depth - deep))
        if self.compression is not None:
            height, width = self.tokens.shape
            merged = replace(
                block, merge_keys=((height, width), self.compression.ratio)
            )
            stages.append(Stage("compressed_blocks", merged, deep))
        return tuple(stages)

    @property
    def coordinates(self) -> Float[np.ndarray, "n a"]:
        """Where the tokens are, on the scale of the training grid."""
        return span(self.tokens, self.base, self.interpolation)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 6)
        patch = jnp.zeros((1, prod(self.tokens.size) * self.channels))
        vector = jnp.zeros((1, self.dim))
        text = jnp.zeros((1, 1, self.conditioning.features))
        params: Params = {
            "patch": Linear(self.dim).init(keys[0], patch)["params"],
            "time": TimeEmbedding(self.dim, self.basis).init(keys[1], jnp.zeros(1))[
                "params"
            ],
            "modulation": Linear(6 * self.dim, kernel_init=normal).init(
                keys[2], vector
            )["params"],
            "text": Caption(self.dim).init(keys[3], text)["params"],
        }
        if self.sizes is not None:
            params |= self.sizes.init(keys[4], self.dim, self.basis)
        params |= self.init_stages(keys[3])
        params["final"] = single_final_init(keys[5], self.dim, self.features)
        return params

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The stream that enters the first layer, and what every layer sees."""
        self.conditioning.check(conditions)
        dtype = jnp.dtype(self.dtype)
        x = self.tokens.patchify(x_t.astype(dtype))
        x = call(Linear(self.dim), params["patch"], x)
        x = x + sincos(self.coordinates, self.dim).astype(dtype)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim, self.basis), params["time"], value)
        if self.sizes is not None:
            vector = vector + self.sizes.apply(
                params, conditions, self.grid, self.dim, self.basis, len(x_t)
            )
        text = jnp.asarray(conditions["text"], dtype)
        text = call(Caption(self.dim), params["text"], text)
        extra = six_vectors(params["modulation"], vector)
        context = Context(vector, text=text, mask=conditions.get("mask"), extra=extra)
        return x, context

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        x = single_final_layer(params["final"], stream, context.vector, self.features)
        return self.tokens.unpatchify(x)


_ALPHA: dict[int, dict[str, Any]] = {
    256: dict(interpolation=1.0),
    512: dict(interpolation=1.0),
    1024: dict(interpolation=2.0, sizes=Sizes()),
}
_SIGMA = {256: 0.5, 512: 1.0, 1024: 2.0, 2048: 4.0}


def pixart_alpha(size: int = 1024, **changes: Any) -> PixArt:
    """PixArt-alpha XL/2 of 256, 512 or 1024 pixels, 120 tokens of T5-XXL.

    Latents of Stable Diffusion's autoencoder, times 0.18215. The model of 1024 pixels
    is told sizes.
    """
    if size not in _ALPHA:
        raise ValueError(f"size is {size}, but it must be one of 256, 512, 1024")
    grid: dict[str, Any] = dict(grid=(size // 8,) * 2, base=size // 16)
    return PixArt(**grid | _ALPHA[size] | changes)


def pixart_sigma(size: int = 1024, **changes: Any) -> PixArt:
    """PixArt-Sigma XL/2 of 256, 512, 1024 or 2048 pixels, 300 tokens of T5-XXL.

    Latents of SDXL's autoencoder, times 0.13025; no sizes are told. The paper's token
    compression is `compression=Compression(2, 14)`, half of the layers.
    """
    if size not in _SIGMA:
        raise ValueError(f"size is {size}, but it must be one of 256, 512, 1024, 2048")
    grid: dict[str, Any] = dict(grid=(size // 8,) * 2, base=size // 16)
    return PixArt(**grid | dict(interpolation=_SIGMA[size]) | changes)


def from_class_conditional(
    model: DiT,
    params: Params,
    key: Key | None = None,
    *,
    text: Text | None = None,
    index: float = 500.0,
) -> tuple[PixArt, Params]:
    """The re-parameterised start from a class-conditional DiT's weights.

    At the time of `index` on DiT's clock, and for any text, the result computes what
    DiT computes for its null class: each layer's table is what DiT's own modulation
    gives there less what the shared one gives, and attention to text starts at zero
    (PixArt-alpha, section 2.3, which takes the index 500). The paper leaves open where
    the shared modulation starts; here it is the mean of DiT's over the layers.

    text: the conditioning of the result, `Text(4096)` if None. key: draws what is new,
        key 0 if None. A DiT without a null class is taken without any label.

    Raises ValueError for a DiT with rotary positions, QK norm, another eps, or a grid
    or patch that is not square.
    """
    plain = dict(qk_norm=False, positions="sincos", eps=(1e-6, 1e-6))
    for name, value in plain.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, but a PixArt starts from a "
                f"DiT with {value!r}"
            )
    if (
        len(set(model.grid)) != 1
        or len(model.grid) != 2
        or len(set(model.tokens.size)) > 1
    ):
        raise ValueError(
            f"model has grid {model.grid} and patch {model.patch}, but a PixArt starts "
            "from a DiT of square images and patches"
        )
    start = PixArt(
        grid=model.grid,
        channels=model.channels,
        out_channels=model.out_channels,
        patch=model.tokens.size[0],
        dim=model.dim,
        depth=model.depth,
        heads=model.heads,
        mlp_ratio=model.mlp_ratio,
        base=model.tokens.shape[0],
        interpolation=1 / model.position_scale,
        conditioning=Text(4096) if text is None else text,
        clock=model.clock,
        basis=model.basis,
        dtype=model.dtype,
        remat=model.remat,
        unroll=model.unroll,
    )
    new = start.init(jax.random.key(0) if key is None else key)
    embedding = TimeEmbedding(model.dim, model.basis)
    shared_vector = call(embedding, params["time"], jnp.full((1,), index))
    vector = shared_vector
    if isinstance(model.conditioning, Labels) and model.conditioning.dropout:
        vector = vector + params["label"]["table"][-1:]
    blocks = params["blocks"]
    order = [(b, part) for b in ("attention", "mlp") for part in ("modulation", "gate")]
    mean = [
        jax.tree.map(lambda leaf: leaf.mean(0), blocks[b][part]) for b, part in order
    ]
    new["modulation"] = jax.tree.map(lambda *x: jnp.concatenate(x, -1), *mean)
    shared = six_vectors(new["modulation"], shared_vector)
    for name in ("attention", "mlp"):
        own = {k: v for k, v in blocks[name].items() if k not in ("modulation", "gate")}
        for part in ("modulation", "gate"):
            there = _affine(blocks[name][part], nn.silu(vector[0]))
            own[part] = {"table": there - shared[part][name][0]}
        new["blocks"][name] = own
    final = _affine(params["final"]["modulation"], nn.silu(vector[0]))
    new["final"] = {
        "modulation": {"table": final - jnp.tile(shared_vector[0], 2)},
        "linear": params["final"]["linear"],
    }
    return start, new | {name: params[name] for name in ("patch", "time")}


def _affine(params: Params, vector: Float[Array, " d"]) -> Float[Array, "*l e"]:
    """A vector through one linear layer, or through each of a stack of them."""
    return jnp.einsum("d,...de->...e", vector, params["kernel"]) + params["bias"]
