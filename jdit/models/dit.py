# SPDX-License-Identifier: Apache-2.0
"""The plain diffusion transformer: DiT, and SiT, which differs by its process."""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.blocks import AdaLNZero, final_layer
from jdit.conditioning import Labels, LinearClock, Sinusoids, TimeEmbedding
from jdit.conditioning.pooled import PooledText
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call, xavier, zeros
from jdit.models.backbone import Backbone
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, rotary_table, sincos
from jdit.typing import Array, Conditions, Float, Key, Params

SIZES = {
    "S": dict(dim=384, depth=12, heads=6),
    "B": dict(dim=768, depth=12, heads=12),
    "L": dict(dim=1024, depth=24, heads=16),
    "XL": dict(dim=1152, depth=28, heads=16),
}
"""Width, depth and heads of the published models (DiT, table 1)."""


@dataclass(frozen=True)
class DiT(Backbone):
    """A diffusion transformer with adaLN-Zero blocks (Peebles and Xie, 2023).

    grid: size of the data, e.g. (32, 32) latents; 1-d, 2-d or 3-d, square or not.
    channels: of the data. out_channels: None means `channels`; DiT's learned variance
        needs `2 * channels`.
    patch, dim, depth, heads, mlp_ratio: as in the paper.
    conditioning: `Labels(classes)`, `PooledText(width)`, or None for an unconditional
        model.
    clock: the number a time becomes (see `LinearClock`). basis: the features of that
        number which the time embedding reads.
    eps: what the norms before attention and MLP add to the variance.
    positions: "sincos" adds the published fixed table; "rotary" turns queries and keys.
    position_scale: multiplies coordinates, so that a model continued at twice the
        resolution starts from the positions it knows (0.5, as PixArt-alpha continues).
    dtype: compute dtype. Parameters stay float32; norms, softmax, the time embedding
        and the output are float32 always.
    remat, unroll: see `jdit.stack.walk`.
    """

    grid: tuple[int, ...] = (32, 32)
    channels: int = 4
    out_channels: int | None = None
    patch: int | tuple[int, ...] = 2
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    conditioning: Labels | PooledText | None = field(
        default_factory=lambda: Labels(1000)
    )
    clock: Clock = LinearClock()
    basis: Sinusoids = Sinusoids()
    eps: tuple[float, float] = (1e-6, 1e-6)
    positions: Literal["sincos", "rotary"] = "sincos"
    position_scale: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but it must be at least 1")
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("blocks", self.block, self.depth),)

    @property
    def block(self) -> AdaLNZero:
        return AdaLNZero(self.dim, self.heads, self.mlp_ratio, self.qk_norm, self.eps)

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        values = 1
        for size in self.tokens.size:
            values *= size
        return values * (self.out_channels or self.channels)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 4)
        patch = jnp.zeros((1, self.features // (self.out_channels or self.channels)))
        patch = jnp.tile(patch, (1, self.channels))
        vector = jnp.zeros((1, self.dim))
        params = {
            "patch": Linear(self.dim, kernel_init=xavier).init(keys[0], patch),
            "time": TimeEmbedding(self.dim, self.basis).init(keys[1], jnp.zeros(1)),
        }
        params = {name: tree["params"] for name, tree in params.items()}
        if self.conditioning is not None:
            params["label"] = self.conditioning.init(keys[2], self.dim)
        params |= self.init_stages(keys[3])
        features = {"modulation": 2 * self.dim, "linear": self.features}
        params["final"] = {
            name: Linear(size, kernel_init=zeros).init(key, vector)["params"]
            for name, size in features.items()
        }
        return params

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The stream that enters the first layer, and what every layer sees."""
        dtype = jnp.dtype(self.dtype)
        x = self.tokens.patchify(x_t.astype(dtype))
        x = call(Linear(self.dim), params["patch"], x)
        coordinates = self.position_scale * self.tokens.coordinates()
        rotary = None
        if self.positions == "sincos":
            x = x + sincos(coordinates, self.dim).astype(dtype)
        else:
            share = self.dim // self.heads // len(self.grid) // 2 * 2
            rest = self.dim // self.heads - share * (len(self.grid) - 1)
            rotary = rotary_table(coordinates, (rest, *[share] * (len(self.grid) - 1)))
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim, self.basis), params["time"], value)
        if self.conditioning is not None:
            vector = vector + self.conditioning.apply(params["label"], conditions)
        return x, Context(vector.astype(dtype), rotary)

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        x = final_layer(params["final"], stream, context.vector, self.features)
        return self.tokens.unpatchify(x)


def dit(size: str = "S", patch: int = 2, **changes: Any) -> DiT:
    """A published size: "S", "B", "L" or "XL", with patch 2, 4 or 8.

    The defaults are the published DiT: 4 x 32 x 32 latents, 1,000 classes, learned
    variance (8 output channels), the 1000-index clock.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(SIZES)}")
    published: dict[str, Any] = dict(out_channels=8, clock=LinearClock(1000.0, -1.0))
    return DiT(patch=patch, **SIZES[size] | published | changes)


def sit(size: str = "S", patch: int = 2, **changes: Any) -> DiT:
    """SiT (Ma et al., 2024): DiT's network, predicting a velocity, its clock reversed.

    The published weights carry twice the channels and ignore the second half;
    `jdit.interop.load_sit` keeps it, as a variance that no flow solver reads.
    """
    return dit(
        size, patch, **dict(out_channels=None, clock=LinearClock(-1.0, 1.0)) | changes
    )
