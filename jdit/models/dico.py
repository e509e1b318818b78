# SPDX-License-Identifier: Apache-2.0
"""DiCo: a U-shaped diffusion model of convolutions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.blocks.convolutional import ConvBlock
from jdit.conditioning import Labels, LinearClock, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.conv import Conv
from jdit.linear import Linear, call, xavier, zeros
from jdit.models.backbone import Backbone
from jdit.norms import layer_norm, modulate
from jdit.stack import Context, Remat, Stage
from jdit.typing import Array, Conditions, Float, Key, Params, Stream

SIZES = {
    "S": dict(dim=128, depths=(5, 4, 4, 4, 4)),
    "B": dict(dim=256, depths=(5, 4, 4, 4, 4)),
    "L": dict(dim=352, depths=(9, 8, 9, 8, 9)),
    "XL": dict(dim=416, depths=(9, 9, 10, 9, 9)),
    "H": dict(dim=416, depths=(14, 12, 10, 12, 14), mlp_ratio=4.0),
}
"""Width and depths of the published models (the published code)."""

NAMES = ("encoder_1", "encoder_2", "middle", "decoder_2", "decoder_1")
LEVELS = (0, 1, 2, 1, 1)
"""The level whose conditioning vector, and width, each stage has."""


@dataclass(frozen=True)
class DiCo(Backbone):
    """A diffusion ConvNet: five stages at full, half, quarter, half, full resolution.

    The stages are `dim`, `2 dim`, `4 dim`, `2 dim` and `2 dim` wide (the last one keeps
    the width below it). Between them a 3 x 3 convolution changes the number of channels
    and 2 x 2 pixels become channels, or back; an encoder's output joins the decoder of
    its resolution by a linear map. Each width has its own embeddings of time and label
    (Ai et al., 2025).

    grid: size of the data, two axes, multiples of 4; not a weight.
    channels, out_channels, conditioning, clock, dtype, remat, unroll: see `DiT`. The
        published models mean `Gaussian(DDPMLinear(), "noise")` with a learned variance.
    depths: layers of the five stages.

    Source: shallowdream204/DiCo b596b05, dico_models.py.
    """

    grid: tuple[int, ...] = (32, 32)
    channels: int = 4
    out_channels: int | None = None
    dim: int = 128
    depths: tuple[int, ...] = (5, 4, 4, 4, 4)
    mlp_ratio: float = 2.0
    conditioning: Labels | None = field(default_factory=lambda: Labels(1000))
    clock: Clock = LinearClock()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if len(self.grid) != 2 or any(size < 4 or size % 4 for size in self.grid):
            raise ValueError(
                f"grid is {self.grid}, but it must be two multiples of 4: it is halved "
                "twice"
            )
        if len(self.depths) != 5 or min(self.depths) < 1:
            raise ValueError(
                f"depths is {self.depths}, but it must hold five numbers of layers, "
                "each at least 1"
            )
        if self.dim % 4:
            raise ValueError(f"dim is {self.dim}, but it must be a multiple of 4")

    @property
    def stages(self) -> tuple[Stage, ...]:
        h, w = self.grid
        halved = (0, 1, 2, 1, 0)
        return tuple(
            Stage(
                f"{name}_blocks",
                ConvBlock(self.dim << level, (h >> half, w >> half), self.mlp_ratio),
                depth,
            )
            for name, level, half, depth in zip(
                NAMES, LEVELS, halved, self.depths, strict=True
            )
        )

    @property
    def features(self) -> int:
        """Channels of the output."""
        return self.out_channels or self.channels

    def _between(self) -> dict[str, tuple[nn.Module, int]]:
        """The layers between stages, and the width of what they read."""
        d = self.dim
        return {
            "down_1": (Conv(d // 2, use_bias=False, kernel_init=xavier), d),
            "down_2": (Conv(d, use_bias=False, kernel_init=xavier), 2 * d),
            "up_2": (Conv(8 * d, use_bias=False, kernel_init=xavier), 4 * d),
            "join_2": (Linear(2 * d), 4 * d),
            "up_1": (Conv(4 * d, use_bias=False, kernel_init=xavier), 2 * d),
            "join_1": (Linear(2 * d), 2 * d),
        }

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = iter(jax.random.split(key, 16))
        fan_in = 9 * self.channels
        kernel = xavier(next(keys), (fan_in, self.dim)).reshape(3, 3, -1, self.dim)
        params: Params = {"pixel": {"kernel": kernel, "bias": jnp.zeros(self.dim)}}
        for level in range(3):
            time = TimeEmbedding(self.dim << level).init(next(keys), jnp.zeros(1))
            params[f"time_{level + 1}"] = time["params"]
            if self.conditioning is not None:
                label = self.conditioning.init(next(keys), self.dim << level)
                params[f"label_{level + 1}"] = label
        for name, (module, width) in self._between().items():
            image = jnp.zeros((1, 2, 2, width))
            params[name] = module.init(next(keys), image)["params"]
        params |= self.init_stages(next(keys))
        width = 2 * self.dim
        vector, image = jnp.zeros((1, width)), jnp.zeros((1, 2, 2, width))
        modulation = Linear(2 * width, kernel_init=zeros).init(next(keys), vector)
        conv = Conv(self.features, kernel_init=zeros).init(next(keys), image)
        params["final"] = {
            "modulation": modulation["params"],
            "conv": conv["params"],
        }
        return params

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """One token a pixel; the three conditioning vectors are in `context.extra`."""
        dtype = jnp.dtype(self.dtype)
        x = call(Conv(self.dim), params["pixel"], x_t.astype(dtype))
        value = self.clock(jnp.asarray(time, jnp.float32))
        vectors = []
        for level in range(3):
            embedding = TimeEmbedding(self.dim << level)
            vector = call(embedding, params[f"time_{level + 1}"], value)
            if self.conditioning is not None:
                table = params[f"label_{level + 1}"]
                vector = vector + self.conditioning.apply(table, conditions)
            vectors.append(vector.astype(dtype))
        return _tokens(x), Context(vectors[0], extra={"vectors": tuple(vectors)})

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """The next resolution, joined by the encoder's output of that resolution."""
        index = NAMES.index(stage.removesuffix("_blocks"))
        vector = context.extra["vectors"][LEVELS[index]]
        context = context.replace(vector=vector)  # type: ignore[attr-defined]
        if index == 0:
            return stream, context
        between = {name: module for name, (module, _) in self._between().items()}
        block: Any = self.stages[index - 1].block
        x = rearrange(stream, "b (h w) d -> b h w d", h=block.grid[0])
        name = ("down_1", "down_2", "up_2", "up_1")[index - 1]
        x = call(between[name], params[name], x)
        if index < 3:
            return _tokens(
                rearrange(x, "b (h p) (w q) d -> b h w (d p q)", p=2, q=2)
            ), (context)
        x = _tokens(rearrange(x, "b h w (d p q) -> b (h p) (w q) d", p=2, q=2))
        level = name[-1]
        skip = taps[f"encoder_{level}_blocks"][-1].astype(x.dtype)
        x = jnp.concatenate([x, skip], -1)
        return call(between[f"join_{level}"], params[f"join_{level}"], x), context

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm and a 3 x 3 convolution."""
        final = params["final"]
        vector = nn.silu(context.vector)
        modulation = call(Linear(4 * self.dim), final["modulation"], vector)
        shift, scale = jnp.split(modulation, 2, -1)
        x = modulate(layer_norm(stream), shift, scale)
        x = rearrange(x, "b (h w) d -> b h w d", h=self.grid[0])
        return call(Conv(self.features), final["conv"], x)


def _tokens(x: Float[Array, "b h w d"]) -> Float[Array, "b n d"]:
    return rearrange(x, "b h w d -> b (h w) d")


def dico(size: str = "S", **changes: Any) -> DiCo:
    """A published size: "S", "B", "L", "XL" or "H".

    The defaults are the published models of ImageNet's 4 x 32 x 32 latents: 1,000
    classes, learned variance, the 1000-index clock.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(SIZES)}")
    fields: dict[str, Any] = dict(out_channels=8, clock=LinearClock(1000.0, -1.0))
    fields |= SIZES[size]
    return DiCo(**fields | changes)
