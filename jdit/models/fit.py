# SPDX-License-Identifier: Apache-2.0
"""FIT: layers of tokens within groups, interleaved with layers of latents over all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.blocks.exchange import Exchange, Grouped
from jdit.conditioning import Labels, Sinusoids, TimeEmbedding
from jdit.conditioning.time import Clock
from jdit.linear import Linear, Mlp, call, exact_gelu, xavier
from jdit.models.backbone import Backbone
from jdit.norms import LayerNorm, layer_norm
from jdit.processes import VPCosine
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches
from jdit.typing import Array, Conditions, Float, Key, Params, Stream

EPS = 1e-6


@dataclass(frozen=True)
class SignalPower:
    """The clock `scale alpha(t)^2` of a variance-preserving path: FIT's and RIN's."""

    path: Any = VPCosine(2e-4)
    scale: float = 1000.0

    def __call__(self, time: Float[Array, " b"]) -> Float[Array, " b"]:
        return self.scale * jnp.square(self.path(time).alpha)


@dataclass(frozen=True)
class Standardised:
    """[sin, cos] of a time at `count / 2` frequencies, with mean 0 and deviation 1."""

    count: int

    def __call__(self, value: Float[Array, " b"]) -> Float[Array, "b e"]:
        cos, sin = jnp.split(Sinusoids(self.count)(value), 2, -1)
        return layer_norm(jnp.concatenate([sin, cos], -1), 0.0)


@dataclass(frozen=True)
class FIT(Backbone):
    """The denoiser of Far-reaching Interleaved Transformers (Chen and Li, 2023).

    Tokens form groups, windows of the image; every group has latents of its own. A unit
    of layers is: *local* layers, in which tokens attend within their group; a *read*,
    in which latents attend to the tokens of their group, and then to the conditions;
    *global* layers, in which all latents attend to all; a *write*, in which tokens
    attend to the latents of their group. Attention over n tokens in groups so costs
    less than `n^2`. Time and label are two tokens that only the reads see.

    grid, channels, patch: of the data, of which the published model takes pixels.
    groups: windows along rows and columns. latents: in each group. Learned positions
        are those within a group, shared by all of them, so a larger grid of the same
        windows needs new latents only.
    layers: (local, global) of every unit; `((2, 4), (2, 0))` is the code's "(2)4(2)". A
        last unit without global layers ends with the tokens, and the last never writes.
    dim, heads: of tokens; latent_dim, latent_heads: of latents. An exchange has the
        smaller width and the smaller number of heads.
    self_conditioning: latents start from those that the step before left, given as
        conditions["latents"] (`b n d`, zeros if absent): `jdit.wrappers.Carried` hands
        them on, and `jdit.objectives.SelfConditioned` trains them.
    clock: the number a time becomes: 1000 alpha^2.
    dtype, remat, unroll: see `DiT`.

    conditions: "label" `b`, unless `conditioning` is None. The published code
    multiplies a one-hot label by a kernel and adds a bias: the rows here are their
    sums, and the null row is the bias. It predicts noise, which is
    `Gaussian(VPCosine(2e-4), "noise")`.

    The streams of the stages are tokens `b (t n) d` or latents `b (t m) d`, group after
    group; the other one waits in `context.extra["other"]`.

    Source: google-research/pix2seq eabd4e9, architectures/transformers.py, FITDenoiser,
    with its defaults. Left out are its options for positions of sines, a causal mask,
    and MLPs after exchanges, which no published configuration turns on.
    """

    grid: tuple[int, ...] = (256, 256)
    channels: int = 3
    patch: int = 8
    groups: tuple[int, int] = (4, 4)
    latents: int = 16
    layers: tuple[tuple[int, int], ...] = ((4, 4), (4, 4), (4, 4), (4, 4), (4, 0))
    dim: int = 512
    heads: int = 16
    latent_dim: int = 768
    latent_heads: int = 16
    mlp_ratio: float = 4.0
    self_conditioning: bool = True
    conditioning: Labels | None = field(default_factory=lambda: Labels(1000))
    clock: Clock = SignalPower()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    carried: ClassVar[str] = "last_global_blocks"
    """The stage whose last stream are the latents that the next step starts from."""

    def __post_init__(self) -> None:
        shape = self.tokens.shape  # checks grid and patch
        if len(shape) != 2 or any(
            n % g for n, g in zip(shape, self.groups, strict=True)
        ):
            raise ValueError(
                f"groups is {self.groups}, but it must divide the rows and columns of "
                f"tokens {shape}"
            )
        fewer = min(self.heads, self.latent_heads)
        if self.dim % self.heads or self.latent_dim % self.latent_heads:
            raise ValueError(
                f"dim {self.dim} and latent_dim {self.latent_dim} are not multiples of "
                f"heads {self.heads} and latent_heads {self.latent_heads}"
            )
        if self.width % fewer or self.latent_dim % 8:
            raise ValueError(
                f"width {self.width} of the exchange is not a multiple of its {fewer} "
                f"heads, or latent_dim {self.latent_dim} not of 8"
            )
        counts = [n for unit in self.layers for n in unit]
        inner = [n for _, n in self.layers[:-1]]
        if not counts or min(counts) < 0 or 0 in inner or not self.layers[0][1]:
            raise ValueError(
                f"layers is {self.layers}, but it must hold pairs of the local and the "
                "global layers of each unit, where only the last of several units may "
                "have no global ones"
            )

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def width(self) -> int:
        """Of an exchange."""
        return min(self.dim, self.latent_dim)

    @property
    def windows(self) -> int:
        """The number of groups."""
        return self.groups[0] * self.groups[1]

    @property
    def stages(self) -> tuple[Stage, ...]:
        ratio, count = self.mlp_ratio, self.windows
        heads = min(self.heads, self.latent_heads)
        near = Grouped(self.dim, self.heads, ratio, True, EPS, count)
        far = Grouped(self.latent_dim, self.latent_heads, ratio, True, EPS)
        read = Exchange(
            self.latent_dim, self.dim, heads, self.width, count, self.latent_heads
        )
        write = Exchange(self.dim, self.latent_dim, heads, self.width, count)
        found, last = [], max(i for i, (_, n) in enumerate(self.layers) if n)
        for i, (local, over) in enumerate(self.layers):
            found.append(Stage(f"local_{i}_blocks", near, local))
            if over:
                name = self.carried if i == last else f"global_{i}_blocks"
                found.append(Stage(f"read_{i}_blocks", read, 1))
                found.append(Stage(name, far, over))
                if i < len(self.layers) - 1:
                    found.append(Stage(f"write_{i}_blocks", write, 1))
        return tuple(stage for stage in found if stage.depth)

    @property
    def features(self) -> int:
        """Values in a token's patch."""
        return self.patch**2 * self.channels

    def _window(self, tokens: Float[Array, "b n p"], back: bool) -> Array:
        """Tokens in rows of the image as tokens group after group; or back."""
        rows, columns = "b (gy y gx x) p", "b (gy gx y x) p"
        (high, wide), (gy, gx) = self.tokens.shape, self.groups
        pattern = f"{columns} -> {rows}" if back else f"{rows} -> {columns}"
        return rearrange(tokens, pattern, gy=gy, gx=gx, y=high // gy, x=wide // gx)

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published; the output starts away from zero."""
        keys = jax.random.split(key, 9)
        token, latent = jnp.zeros((1, self.dim)), jnp.zeros((1, self.latent_dim))
        near = jax.nn.initializers.truncated_normal(0.02)
        each = self.tokens.count // self.windows

        def linear(key: Key, rows: int, columns: int) -> Params:
            return Linear(columns).init(key, jnp.zeros((1, rows)))["params"]

        params: Params = {
            "patch": {
                "linear": linear(keys[0], self.features, self.dim),
                "norm": LayerNorm(EPS).init(key, token)["params"],
                "positions": near(keys[1], (each, self.dim)),
            },
            "latents": near(keys[2], (self.windows * self.latents, self.latent_dim)),
            "time": {
                "in": linear(keys[3], self.latent_dim // 4, self.latent_dim),
                "out": linear(keys[4], self.latent_dim, self.latent_dim),
            },
            "final": {
                "norm": LayerNorm(EPS).init(key, token)["params"],
                "linear": linear(keys[5], self.dim, self.features),
            },
        }
        if self.conditioning is not None:
            table = self.conditioning.init(keys[6], self.latent_dim)["table"]
            drawn = xavier(keys[6], (self.conditioning.classes, self.latent_dim))
            params["label"] = {
                "table": jnp.zeros_like(table).at[: len(drawn)].set(drawn)
            }
        if self.self_conditioning:
            last = LayerNorm(EPS).init(key, latent)["params"]
            params["previous"] = {
                "norm": last,
                **self._previous.init(keys[7], latent)["params"],
                "last": {**last, "scale": jnp.zeros_like(last["scale"])},
            }
        return params | self.init_stages(keys[8])

    @property
    def _previous(self) -> Mlp:
        return Mlp(int(self.latent_dim * self.mlp_ratio), exact_gelu, xavier)

    def _latents(
        self, params: Params, batch: int, conditions: Conditions
    ) -> Float[Array, "b n d"]:
        """Where latents start from."""
        dtype, own = jnp.dtype(self.dtype), params["latents"]
        shape = (batch, *own.shape)
        if not self.self_conditioning:
            return jnp.broadcast_to(own, shape).astype(dtype)
        x = conditions.get("latents")
        if x is not None and x.shape != shape:
            raise ValueError(
                f"conditions['latents'] has shape {x.shape}, but it must be {shape}: "
                "the latents that the step before left"
            )
        x = jnp.zeros(shape, dtype) if x is None else x.astype(dtype)
        before = params["previous"]
        x = x + call(self._previous, before, call(LayerNorm(EPS), before["norm"], x))
        return own.astype(dtype) + call(LayerNorm(EPS), before["last"], x)

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Stream, Context]:
        """The tokens, while the latents wait."""
        dtype, own = jnp.dtype(self.dtype), params["patch"]
        x = self._window(self.tokens.patchify(x_t.astype(dtype)), back=False)
        x = call(Linear(self.dim), own["linear"], x)
        x = call(LayerNorm(EPS), own["norm"], x)
        x = x + jnp.tile(own["positions"], (self.windows, 1)).astype(dtype)
        value = self.clock(jnp.asarray(time, jnp.float32))
        basis = Standardised(self.latent_dim // 4)
        vector = call(TimeEmbedding(self.latent_dim, basis), params["time"], value)
        told = [vector]
        if self.conditioning is not None:
            told.append(self.conditioning.apply(params["label"], conditions))
        context = Context(
            vector.astype(dtype),
            text=jnp.stack(told, 1).astype(dtype),
            extra={"other": self._latents(params, len(x), conditions)},
        )
        return x, context

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """Tokens and latents change places before a read and before a write."""
        if not stage.startswith(("read", "write")):
            return stream, context
        other = context.extra["other"]
        return other, context.replace(extra={"other": stream})  # type: ignore[attr-defined]

    def read_out(
        self, params: Params, stream: Stream, context: Context
    ) -> Float[Array, "b *g e"]:
        """Norm, linear layer, and tokens back to their places."""
        own = params["final"]
        x = stream if not self.layers[-1][1] else context.extra["other"]
        x = call(
            Linear(self.features), own["linear"], call(LayerNorm(EPS), own["norm"], x)
        )
        return self.tokens.unpatchify(self._window(x, back=True))


def fit(**changes: Any) -> FIT:
    """256 x 256 pixels in 16 groups of 64 tokens, each with 16 latents (203 M).

    The widths are those of RIN (Jabri et al., 2023) for ImageNet at 64 x 64 in the same
    code, configs/config_diffusion_imagenet64.py; it has no configuration of FIT.
    """
    return FIT(**changes)
