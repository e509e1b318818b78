# SPDX-License-Identifier: Apache-2.0
"""VDT: a video transformer whose attention is along time, then inside frames."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.blocks.adaln import final_layer
from jdit.blocks.factorised import Factorised
from jdit.conditioning import LinearClock, TimeEmbedding
from jdit.conditioning.frames import KnownFrames
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call, xavier, zeros
from jdit.models.backbone import Backbone
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, sincos
from jdit.typing import Array, Conditions, Float, Key, Params

SIZES = {
    "S": dict(dim=384, depth=12, heads=6),
    "L": dict(dim=1152, depth=28, heads=16),
}
"""Width, depth and heads of the published models (the published code)."""


@dataclass(frozen=True)
class VDT(Backbone):
    """A video diffusion transformer (Lu et al., 2024).

    Every frame is cut into patches as an image is; tokens get the fixed positions of
    their place and of their frame. Each layer attends along time at every place, then
    inside every frame, then applies its MLP (`Factorised`).

    Frames that are known (to predict others, to interpolate, to complete a region) take
    the place of the noisy ones in the network's input: "frames" and "noised" of
    `KnownFrames`. Where all of a patch is known the prediction is zero, and so is not
    trained: the published loss leaves those places out. Samples hold nothing there.

    grid: frames, rows and columns; not a weight. channels, out_channels, dim, depth,
        heads, mlp_ratio, clock, dtype, remat, unroll: see `DiT`. patch: along rows and
        columns. The published models mean `Gaussian(DDPMLinear(), "noise")` with a
        learned variance, and class 0.

    Source: RERV/VDT cdbad2b, models.py.
    """

    grid: tuple[int, ...] = (16, 32, 32)
    channels: int = 4
    out_channels: int | None = None
    patch: int = 2
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    conditioning: KnownFrames = KnownFrames()
    clock: Clock = LinearClock()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if len(self.grid) != 3:
            raise ValueError(
                f"grid is {self.grid}, but a video has three axes: frames, rows and "
                "columns"
            )
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, (1, self.patch, self.patch))

    @property
    def stages(self) -> tuple[Stage, ...]:
        block = Factorised(self.dim, self.heads, self.grid[0], self.mlp_ratio)
        return (Stage("blocks", block, self.depth),)

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        return self.patch**2 * (self.out_channels or self.channels)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 4)
        patch = jnp.zeros((1, self.patch**2 * self.channels))
        vector = jnp.zeros((1, self.dim))
        linear = Linear(self.dim, kernel_init=xavier)
        time = TimeEmbedding(self.dim)
        params = {
            "patch": linear.init(keys[0], patch)["params"],
            "time": time.init(keys[1], jnp.zeros(1))["params"],
            "label": self.conditioning.labels.init(keys[2], self.dim),
        }
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
        conditions = self.conditioning.label(conditions, x_t.shape[0])
        x = self.conditioning.mix(x_t.astype(dtype), conditions)
        x = call(Linear(self.dim), params["patch"], self.tokens.patchify(x))
        place = self.tokens.coordinates()
        frame, inside = place[:, :1], place[:, 1:]
        x = x + sincos(inside, self.dim).astype(dtype)
        x = x + sincos(frame, self.dim).astype(dtype)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim), params["time"], value)
        vector = vector + self.conditioning.labels.apply(params["label"], conditions)
        noised = None
        if "noised" in conditions:
            mask = jnp.asarray(conditions["noised"], dtype)[..., None]
            noised = self.tokens.patchify(mask).max(-1, keepdims=True)
        return x, Context(vector.astype(dtype), extra={"noised": noised})

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g e"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        x = final_layer(params["final"], stream, context.vector, self.features)
        if context.extra["noised"] is not None:
            x = x * context.extra["noised"]
        return self.tokens.unpatchify(x)


def vdt(size: str = "L", **changes: Any) -> VDT:
    """A published size, "S" or "L", with patch 2.

    The defaults are the published models: 16 frames of 4 x 32 x 32 latents, learned
    variance, the 1000-index clock.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(SIZES)}")
    published: dict[str, Any] = dict(out_channels=8, clock=LinearClock(1000.0, -1.0))
    return VDT(**SIZES[size] | published | changes)
