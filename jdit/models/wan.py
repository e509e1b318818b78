# SPDX-License-Identifier: Apache-2.0
"""Wan 2.1 and 2.2: video from text, by full attention over space and time."""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.blocks.pixart import (
    Caption,
    single_final_init,
    single_final_layer,
    six_vectors,
)
from jdit.blocks.wan import WanBlock
from jdit.conditioning import LinearClock, Sinusoids, Text, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone, Output
from jdit.stack import Context, Policy, Remat, Stage
from jdit.tokens import Patches, rotary_table
from jdit.typing import Array, Conditions, Float, Key, Memory, Params

EXPERTS = ("high", "low")
"""The two networks of Wan 2.2, by the noise they see."""


@dataclass(frozen=True)
class Wan(Backbone):
    """Wan's text-to-video transformer (Wan Team, 2025, section 4.2.2).

    The published weights predict the velocity `noise - x_0` of the straight path:
    `Gaussian(Linear(), "velocity")`.

    Conditions: "text" `b m e`, tokens of umT5, and "mask" `b m` of the real ones. As
    published, the others become zero vectors, zeros fill up to `text_tokens`, and all
    of these are attended to. Null is "negative", the encoded negative prompt, else
    zeros.

    grid: frames, height and width of the latents; it may be any that `patch` divides.
    channels: of the latents. patch: along frames, height and width.
    dim, depth, heads: as in DiT. hidden: width of the MLP.
    text_tokens: how many tokens of text are attended to.
    conditioning: width of the text, and how often training drops it.
    basis: of the time; clock, dtype, remat, unroll: see `DiT`.

    Raises ValueError for widths or a grid that do not fit.
    Source: Wan-Video/Wan2.1, wan/modules/model.py; diffusers 0.42, transformer_wan.py.
    """

    grid: tuple[int, ...] = (21, 60, 104)
    channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    dim: int = 1536
    depth: int = 30
    heads: int = 12
    hidden: int = 8960
    text_tokens: int = 512
    conditioning: Text = Text(4096)
    clock: Clock = LinearClock(1000.0, 0.0)
    basis: Sinusoids = Sinusoids()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim is {self.dim}, but it must be a multiple of twice heads, "
                f"{2 * self.heads}: positions turn pairs of channels"
            )
        for name in ("depth", "hidden", "text_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but it must be at least 1"
                )
        if len(self.grid) != 3:
            raise ValueError(
                f"grid is {self.grid}, but it must have three axes: frames, height, "
                "width"
            )
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def features(self) -> int:
        """Values a token holds."""
        return prod(self.patch) * self.channels

    @property
    def axes(self) -> tuple[int, int, int]:
        """Channels of a head that frame, row and column turn."""
        width = self.dim // self.heads
        side = 2 * (width // 6)
        return (width - 2 * side, side, side)

    @property
    def stages(self) -> tuple[Stage, ...]:
        block = WanBlock(self.dim, self.heads, hidden=self.hidden)
        return (Stage("blocks", block, self.depth),)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 6)
        vector = jnp.zeros((1, self.dim))
        text = jnp.zeros((1, 1, self.conditioning.features))
        leaves: dict[str, tuple[Any, Array]] = {
            "patch": (Linear(self.dim), jnp.zeros((1, self.features))),
            "time": (TimeEmbedding(self.dim, self.basis), jnp.zeros(1)),
            "modulation": (Linear(6 * self.dim), vector),
            "text": (Caption(self.dim), text),
        }
        params: Params = {
            name: module.init(k, x)["params"]
            for k, (name, (module, x)) in zip(keys, leaves.items(), strict=False)
        }
        params["final"] = single_final_init(keys[4], self.dim, self.features)
        return params | self.init_stages(keys[5])

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
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim, self.basis), params["time"], value)
        text = call(Caption(self.dim), params["text"], self._padded(conditions, dtype))
        rotary = rotary_table(self.tokens.coordinates(), self.axes)
        extra = six_vectors(params["modulation"], vector)
        return x, Context(vector, rotary, text, extra=extra)

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g c"]:
        """Modulated norm, linear layer, and tokens back to their places; float32."""
        x = stream.astype(jnp.float32)
        x = single_final_layer(params["final"], x, context.vector, self.features)
        return self.tokens.unpatchify(x)

    def _padded(self, conditions: Conditions, dtype: Any) -> Float[Array, "b m e"]:
        """The text with zero vectors in place of padding, `text_tokens` of them."""
        self.conditioning.check(conditions)
        text = jnp.asarray(conditions["text"], dtype)
        lacking = self.text_tokens - text.shape[1]
        if lacking < 0:
            raise ValueError(
                f"conditions['text'] has {text.shape[1]} tokens, but this model takes "
                f"at most text_tokens = {self.text_tokens}"
            )
        if "mask" in conditions:
            text = jnp.where(conditions["mask"][..., None], text, 0)
        return jnp.pad(text, ((0, 0), (0, lacking), (0, 0)))


@dataclass(frozen=True)
class WanExperts(Wan):
    """Two `Wan`s: one for much noise, one for little, as in Wan 2.2's A14B.

    Parameters are those of both, "high" and "low". At times of at least `boundary`, as
    the network is told them, the first predicts, else the second; where all times of a
    batch lie on one side, as in sampling, the other network is not computed. What a
    policy remembers is handed from the first to the second.

    boundary: a time. All else is as in `Wan`, and the same for both.

    Source: Wan-Video/Wan2.2, wan/text2video.py; diffusers 0.42, pipeline_wan.py.
    """

    boundary: float = 0.875

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.boundary < 1:
            raise ValueError(
                f"boundary is {self.boundary}, but it must lie between 0 and 1"
            )

    def init(self, key: Key) -> Params:
        """Parameters of both networks, each as `Wan` begins."""
        keys = zip(EXPERTS, jax.random.split(key), strict=True)
        return {name: super(WanExperts, self).init(k) for name, k in keys}

    def apply(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions | None = None,
        *,
        memory: Memory = None,
        **seams: Any,
    ) -> Output:
        """As `Wan.apply`, by the network of each example's time."""

        def run(name: str, memory: Memory) -> Output:
            given = (params[name], x_t, time, conditions)
            return Wan.apply(self, *given, memory=memory, **seams)

        like = jax.eval_shape(lambda memory: run("high", memory), memory)
        out = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        if memory is not None:
            out = out._replace(memory=memory)
        end = self.clock(jnp.ones(1, jnp.float32))
        high = self.clock(jnp.asarray(time, jnp.float32)) >= self.boundary * end
        for name, mine in zip(EXPERTS, (high, ~high), strict=True):

            def step(out: Output, name: str = name, mine: Array = mine) -> Output:
                found = run(name, None if memory is None else out.memory)
                rows = mine.reshape(-1, *(1,) * (x_t.ndim - 1))
                both = jnp.where(rows, found.prediction, out.prediction)
                return found._replace(prediction=both)

            out = jax.lax.cond(mine.any(), step, lambda out: out, out)
        return out

    def memory(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        conditions: Conditions,
        policy: Policy,
    ) -> Memory:
        """Of one network, as `Wan.memory`."""
        return super().memory(params["high"], x_t, conditions, policy)

    def init_policy(
        self,
        key: Key,
        params: Params,
        policy: Policy,
        conditions: Conditions | None = None,
    ) -> Params:
        """A learned policy's parameters for each network, as `Wan.init_policy`."""
        return {
            name: super(WanExperts, self).init_policy(
                key, params[name], policy, conditions
            )
            for name in EXPERTS
        }


def wan_1b(**changes: Any) -> Wan:
    """Wan 2.1's 1.3 B: 81 frames of 480 x 832 pixels, latents of Wan's codec."""
    return Wan(**changes)


def wan_14b(**changes: Any) -> Wan:
    """Wan 2.1's 14 B: 81 frames of 720 x 1,280 pixels, or of 480 x 832."""
    published: dict[str, Any] = dict(
        grid=(21, 90, 160), dim=5120, depth=40, heads=40, hidden=13824
    )
    return Wan(**published | changes)


def wan_2_2_14b(**changes: Any) -> WanExperts:
    """Wan 2.2's A14B: two networks of Wan 2.1's 14 B, 27 B in all."""
    published: dict[str, Any] = dict(
        grid=(21, 90, 160), dim=5120, depth=40, heads=40, hidden=13824
    )
    return WanExperts(**published | changes)
