# SPDX-License-Identifier: Apache-2.0
"""LightningDiT: a DiT with SwiGLU, RMSNorm and rotary positions."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.blocks.adarms import AdaRMS, final_rms, init_final_rms
from jdit.conditioning import Labels, LinearClock, Sinusoids, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, rotary_table, sincos
from jdit.typing import Array, Conditions, Float, Key, Params

SIZES = {
    "B": dict(dim=768, depth=12, heads=12),
    "L": dict(dim=1024, depth=24, heads=16),
    "XL": dict(dim=1152, depth=28, heads=16),
    "1p0B": dict(dim=1536, depth=24, heads=24),
    "1p6B": dict(dim=1792, depth=28, heads=28),
}
"""Width, depth and heads of the published code's models."""


@dataclass(frozen=True)
class LightningDiT(Backbone):
    """LightningDiT (Yao et al., 2025): DiT with the parts of recent language models.

    Blocks are `AdaRMS`. Sin-cos positions are added to the tokens *and* queries and
    keys are turned, half of each head by the row and half by the column. Conditions:
    "label" `b`. The published weights mean `Gaussian(Linear(), "velocity")` once loaded
    by `jdit.interop.load_lightning_dit`, which turns their sign; their clock runs from
    noise to data, `LinearClock(-1, 1)`.

    grid, channels, out_channels, patch, conditioning, clock, basis, dtype, remat,
        unroll: as in `DiT`. The grid may be 1-d, 2-d or 3-d; 2-d is published.
    dim, depth, heads: heads are `2 * axes` channels wide, or a multiple of that.
    hidden: inner width of the SwiGLU. qk_norm, shift: see `AdaRMS`.

    Source: hustvl/LightningDiT 2725fed, models/lightningdit.py.
    """

    grid: tuple[int, ...] = (16, 16)
    channels: int = 32
    out_channels: int | None = None
    patch: int | tuple[int, ...] = 1
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 2048
    qk_norm: bool = False
    shift: bool = True
    conditioning: Labels | None = field(default_factory=lambda: Labels(1000))
    clock: Clock = LinearClock(-1.0, 1.0)
    basis: Sinusoids = Sinusoids()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        check_heads(self.dim, self.heads, len(self.grid))
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but it must be at least 1")
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def block(self) -> AdaRMS:
        return AdaRMS(self.dim, self.heads, self.hidden, self.qk_norm, self.shift)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("blocks", self.block, self.depth),)

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        return prod(self.tokens.size) * (self.out_channels or self.channels)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 5)
        patch = jnp.zeros((1, prod(self.tokens.size) * self.channels))
        time = TimeEmbedding(self.dim, self.basis)
        params = {
            "patch": Linear(self.dim).init(keys[0], patch)["params"],
            "time": time.init(keys[1], jnp.zeros(1))["params"],
            "final": init_final_rms(keys[2], self.dim, self.features),
        }
        if self.conditioning is not None:
            params["label"] = self.conditioning.init(keys[3], self.dim)
        return params | self.init_stages(keys[4])

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
        x = x + sincos(self.tokens.coordinates(), self.dim).astype(dtype)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim, self.basis), params["time"], value)
        if self.conditioning is not None:
            vector = vector + self.conditioning.apply(params["label"], conditions)
        rotary = even_rotary(self.tokens, self.dim // self.heads)
        return x, Context(vector.astype(dtype), rotary)

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        x = final_rms(params["final"], stream, context.vector, self.features)
        return self.tokens.unpatchify(x)


def even_rotary(tokens: Patches, width: int) -> tuple[Array, Array]:
    """Rotary positions that give each axis an equal share of a head's channels."""
    axes = len(tokens.grid)
    return rotary_table(tokens.coordinates(), (width // axes,) * axes)


def check_heads(dim: int, heads: int, axes: int, name: str = "dim") -> None:
    """Raise ValueError unless heads divide the width into pairs for every axis."""
    if dim % (2 * axes * heads):
        raise ValueError(
            f"{name} is {dim}, but with {heads} heads and rotary positions over {axes} "
            f"axes it must be a multiple of {2 * axes * heads}"
        )


def swiglu_width(dim: int, ratio: float = 4.0) -> int:
    """Two thirds of an MLP's hidden width, rounded down as the published code does."""
    return int(2 / 3 * int(dim * ratio))


def lightning_dit(size: str = "XL", patch: int = 1, **changes: Any) -> LightningDiT:
    """A published size: "B", "L", "XL", "1p0B" or "1p6B".

    The defaults are the published LightningDiT-XL/1: 32 x 16 x 16 latents of the
    VA-VAE, 1,000 classes, no QK-norm.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(SIZES)}")
    hidden = swiglu_width(SIZES[size]["dim"])
    given: dict[str, Any] = dict(patch=patch, hidden=hidden, **SIZES[size])
    return LightningDiT(**given | changes)
