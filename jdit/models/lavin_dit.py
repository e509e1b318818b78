# SPDX-License-Identifier: Apache-2.0
"""LaVin-DiT: a vision model that is told its task by examples."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdit.blocks.in_context import InContext
from jdit.conditioning import LinearClock, TimeEmbedding
from jdit.conditioning.shown import Shown
from jdit.conditioning.time import Clock
from jdit.linear import Linear, call, xavier, zeros
from jdit.models.backbone import Backbone
from jdit.norms import LayerNorm, rms_norm
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches, rotary_table
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class LaVinDiT(Backbone):
    """A large vision diffusion transformer (Wang et al., 2024).

    Examples of a task, pairs of an input and its answer, and then the query are frames
    of latents that are *shown*, in this order; the answer to the query is *asked* for:
    frames that follow them in time. All tokens attend to all, in one sequence whose
    three-axis rotations count shown and asked frames through. The two streams have
    weights, and a vector (the time's embedding plus a learned one), of their own.

    grid: asked frames, rows and columns; not a weight. conditions hold "shown", clean
        latents `b t h w c` of any number of frames t. `jdit.conditioning.shown.lay_out`
        puts pairs and a query in order.
    channels: 16 in the published model, of `jdit.codecs.lavin_vae`.
    patch: along rows and columns. dim, depth, heads: as in the paper. groups: how many
        queries share keys and values. hidden: of the SwiGLU; None takes the multiple of
        64 below 8/3 of `dim`.
    clock: the number a time becomes. The code counts time from noise, 0, to data, 1,
        which is `LinearClock(-1, 1)`, and predicts `x_0 - noise`: the negative of the
        velocity of `Gaussian(Linear(), "velocity")`, which `load_lavin_dit` turns.
    dtype, remat, unroll: see `DiT`.

    Sources: DerrickWang005/LaVin-DiT f372858, lib/model/dit.py and blocks.py, are whole
    for this network. The rotations need a head width that is a multiple of 6. The order
    of pairs and query, and the query that guidance keeps, are those of inference.py.
    """

    grid: tuple[int, ...] = (1, 64, 64)
    channels: int = 16
    patch: int = 2
    dim: int = 2304
    depth: int = 22
    heads: int = 32
    groups: int = 4
    hidden: int | None = None
    conditioning: Shown = Shown(query=1)
    clock: Clock = LinearClock(-1.0, 1.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim // self.heads % 6:
            raise ValueError(
                f"dim {self.dim} over heads {self.heads} must be a multiple of 6: each "
                "of three axes turns a third of a head, in pairs"
            )
        if self.heads % self.groups:
            raise ValueError(
                f"heads {self.heads} is not a multiple of groups {self.groups}"
            )
        if len(self.grid) != 3:
            raise ValueError(
                f"grid is {self.grid}, but it must have three axes: frames, rows and "
                "columns"
            )
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, (1, self.patch, self.patch))

    @property
    def stages(self) -> tuple[Stage, ...]:
        hidden = self.hidden or 8 * self.dim // 3 // 64 * 64
        block = InContext(self.dim, self.heads, self.groups, hidden)
        return (Stage("blocks", block, self.depth),)

    @property
    def features(self) -> int:
        """Values in a token's patch."""
        return self.patch**2 * self.channels

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published: the model starts at zero output."""
        keys = jax.random.split(key, 7)
        patch, x = jnp.zeros((1, self.features)), jnp.zeros((1, self.dim))
        params: Params = {}
        for i, name in enumerate(("shown", "asked")):
            linear = Linear(self.dim, kernel_init=xavier).init(keys[i], patch)
            params[name] = {
                "linear": linear["params"],
                "norm": LayerNorm(1e-5).init(key, x)["params"],
                "vector": 0.02 * jax.random.normal(keys[2 + i], (self.dim,)),
            }
        time = TimeEmbedding(self.dim).init(keys[4], jnp.zeros(1))
        params["time"] = time["params"]
        params |= self.init_stages(keys[5])
        features = {"modulation": self.dim, "linear": self.features}
        params["final"] = {
            name: Linear(size, kernel_init=zeros).init(keys[6], x)["params"]
            for name, size in features.items()
        }
        return params

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Stream, Context]:
        """Both streams, and the rotations of one sequence that holds both."""
        dtype = jnp.dtype(self.dtype)
        shown = self.conditioning.of(conditions, x_t)
        frames = shown.shape[1]
        before = Patches((frames, *self.grid[1:]), self.tokens.size)
        rows = {"shown": (before, shown), "asked": (self.tokens, x_t)}
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = call(TimeEmbedding(self.dim), params["time"], value)
        stream, vectors = {}, {}
        for name, (tokens, x) in rows.items():
            own = params[name]
            x = call(Linear(self.dim), own["linear"], tokens.patchify(x.astype(dtype)))
            stream[name] = call(LayerNorm(1e-5), own["norm"], x)
            vectors[name] = (vector + own["vector"]).astype(dtype)
        whole = Patches((frames + self.grid[0], *self.grid[1:]), self.tokens.size)
        third = self.dim // self.heads // 3
        place = np.asarray(whole.coordinates())
        context = Context(
            vectors["asked"],
            rotary_table(place, (third,) * 3),
            extra={"vectors": vectors},
        )
        return stream, context

    def read_out(self, params: Params, stream: Stream, context: Context) -> Array:
        """The asked frames: scaled norm, linear layer, and tokens to their places."""
        final = params["final"]
        vector = jax.nn.silu(context.extra["vectors"]["asked"])
        scale = call(Linear(self.dim), final["modulation"], vector)
        x = rms_norm(stream["asked"]) * (1 + scale[:, None])
        return self.tokens.unpatchify(call(Linear(self.features), final["linear"], x))


def lavin_dit(**changes: Any) -> LaVinDiT:
    """The published size, LaVin-DiT-3B/2 (3.4 B parameters)."""
    return LaVinDiT(**changes)
