# SPDX-License-Identifier: Apache-2.0
"""The plain diffusion transformer: DiT, and SiT, which differs by its process."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jdit import stack
from jdit.blocks import AdaLNZero, final_layer
from jdit.conditioning import Labels, LinearClock, Sinusoids, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call, xavier, zeros
from jdit.stack import Context, Policy, Remat
from jdit.tokens import Patches, rotary_table, sincos
from jdit.typing import Array, Conditions, Float, Int, Key, Memory, Params, Stream

SIZES = {
    "S": dict(dim=384, depth=12, heads=6),
    "B": dict(dim=768, depth=12, heads=12),
    "L": dict(dim=1024, depth=24, heads=16),
    "XL": dict(dim=1152, depth=28, heads=16),
}
"""Width, depth and heads of the published models (DiT, table 1)."""


class Output(NamedTuple):
    """What one pass of a network returns.

    prediction: `b *g e`, float32, in the terms of the process the model was trained
        with; with a learned variance, e is twice the data's channels.
    memory: the policy's, for the next step. taps: the stream after each layer.
    """

    prediction: Float[Array, "b *g e"]
    memory: Memory
    taps: Stream


@dataclass(frozen=True)
class DiT:
    """A diffusion transformer with adaLN-Zero blocks (Peebles and Xie, 2023).

    grid: size of the data, e.g. (32, 32) latents; 1-d, 2-d or 3-d, square or not.
    channels: of the data. out_channels: None means `channels`; DiT's learned variance
        needs `2 * channels`.
    patch, dim, depth, heads, mlp_ratio: as in the paper.
    conditioning: `Labels(classes)`, or None for an unconditional model.
    clock: the number a time becomes (see `LinearClock`). basis: the features of that
        number which the time embedding reads.
    eps: what the norms before attention and MLP add to the variance.
    positions: "sincos" adds the published fixed table; "rotary" turns queries and keys.
    position_scale: multiplies coordinates, so that a model continued at twice the
        resolution starts from the positions it knows (0.5; PixArt-alpha, section 2.3).
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
    conditioning: Labels | None = field(default_factory=lambda: Labels(1000))
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
    def block(self) -> AdaLNZero:
        return AdaLNZero(self.dim, self.heads, self.mlp_ratio, self.qk_norm, self.eps)

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        values = 1
        for size in self.tokens.size:
            values *= size
        return values * (self.out_channels or self.channels)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one example: grid and channels."""
        return (*self.grid, self.channels)

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
        params["blocks"] = stack.stack_init(self.block, keys[3], self.depth)
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
        self._check(x_t, time)
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

    def apply(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions | None = None,
        *,
        policy: Policy | None = None,
        memory: Memory = None,
        step: Int[Array, ""] | int = 0,
        inject: Stream | None = None,
    ) -> Output:
        """One pass of the network: a pure function of its arguments.

        Raises ValueError when the data's grid or channels are not the model's.
        """
        x, context = self.embed(params, x_t, time, conditions or {})
        x, memory, taps = stack.walk(
            self.block,
            params["blocks"],
            x,
            context,
            policy=policy,
            policy_params=params.get("policy"),
            memory=memory,
            step=step,
            inject=inject,
            remat=self.remat,
            unroll=self.unroll,
        )
        x = final_layer(params["final"], x, context.vector, self.features)
        return Output(self.tokens.unpatchify(x).astype(jnp.float32), memory, taps)

    def memory(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        conditions: Conditions,
        policy: Policy,
    ) -> Memory:
        """The policy's first memory for a batch of this shape; costs no FLOPs."""
        time = jax.ShapeDtypeStruct((x_t.shape[0],), jnp.float32)
        stream, context = jax.eval_shape(self.embed, params, x_t, time, conditions)
        return stack.init_memory(self.block, params["blocks"], stream, context, policy)

    def init_policy(
        self,
        key: Key,
        params: Params,
        policy: Policy,
        conditions: Conditions | None = None,
    ) -> Params:
        """The same parameters with those of a learned policy, under "policy".

        conditions: one image's, if the model is told more than a label.
        """
        if conditions is None:
            conditions = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)}
        x_t = jax.ShapeDtypeStruct((1, *self.sample_shape), jnp.float32)
        time = jax.ShapeDtypeStruct((1,), jnp.float32)
        stream, context = jax.eval_shape(self.embed, params, x_t, time, conditions)
        learned = stack.init_policy(
            self.block, key, params["blocks"], stream, context, policy
        )
        return {**params, "policy": learned}

    def null(self, conditions: Conditions) -> Conditions:
        """The conditions of the unconditional prediction."""
        return (
            conditions
            if self.conditioning is None
            else self.conditioning.null(conditions)
        )

    def drop(self, key: Key, conditions: Conditions) -> Conditions:
        """Conditions with some dropped to null, for training."""
        return (
            conditions
            if self.conditioning is None
            else self.conditioning.drop(key, conditions)
        )

    def _check(self, x_t: Array, time: Array) -> None:
        if x_t.shape[1:] != self.sample_shape:
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}, but this model takes "
                f"(batch, {', '.join(map(str, self.sample_shape))}): "
                "batch first, channels last"
            )
        if jnp.shape(time) != (x_t.shape[0],):
            raise ValueError(
                f"time has shape {jnp.shape(time)}, but it must be ({x_t.shape[0]},): "
                "one time per image"
            )


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
