# SPDX-License-Identifier: Apache-2.0
"""DDT: a condition encoder and a velocity decoder; and its wide head on RAE latents."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jdit import stack
from jdit.blocks.adaln import final_layer
from jdit.blocks.adarms import AdaRMS, final_rms, init_final_rms
from jdit.conditioning import Labels, LinearClock, Sinusoids, TimeEmbedding
from jdit.conditioning.time import Clock, Fourier, fourier
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.models.lightning_dit import check_heads, even_rotary, swiglu_width
from jdit.norms import per_token
from jdit.stack import Context, Policy, Remat, Stage
from jdit.tokens import Patches, rotary_table, sincos
from jdit.tokens.positions import interleave
from jdit.typing import Array, Conditions, Float, Int, Key, Memory, Params, Stream

ENCODER, DECODER = "encoder_blocks", "decoder_blocks"


@dataclass(frozen=True)
class Tower:
    """A row of equal layers: width, depth, heads, inner width of the SwiGLU."""

    dim: int = 1152
    depth: int = 22
    heads: int = 16
    hidden: int = 3072


def tower(dim: int, depth: int, heads: int) -> Tower:
    """A tower whose SwiGLU is as large as an MLP of four times the width."""
    return Tower(dim, depth, heads, swiglu_width(dim))


class Half(NamedTuple):
    """What one half of the network gives: its result, and the policy's memory."""

    result: Array
    memory: Memory


@dataclass(frozen=True)
class DDT(Backbone):
    """The decoupled diffusion transformer (Wang et al., 2025).

    The encoder turns x_t, time and label into one condition z for every token; the
    decoder reads x_t again and is modulated by z, token by token, in the place of the
    time and label. z changes slowly with time, so that it may be computed at some steps
    only: `encode`, `decode`, and `jdit.wrappers.SharedEncoder`.

    Conditions: "label" `b`. The published weights mean `Gaussian(Linear(), "velocity")`
    once loaded by `jdit.interop.load_ddt`, which turns their sign. Positions span 0 to
    16 whatever the grid. Linear layers start Xavier-uniform where the published code
    has PyTorch's default; modulations and gates start as there, not at zero.

    grid, channels, patch, conditioning, clock, dtype, remat, unroll: as in `DiT`.
    basis: of the time embedding; the published period is 10, for times in [0, 1].
    encoder, decoder: the two towers; they must be of one width here.

    Source: MCG-NJU/DDT 1d1b4d2, src/models/denoiser/decoupled_improved_dit.py.
    """

    grid: tuple[int, ...] = (32, 32)
    channels: int = 4
    patch: int | tuple[int, ...] = 2
    encoder: Tower = Tower()
    decoder: Tower = Tower(depth=6)
    conditioning: Labels | None = field(default_factory=lambda: Labels(1000))
    clock: Clock = LinearClock(-1.0, 1.0)
    basis: Sinusoids | Fourier = Sinusoids(256, 10.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            part = getattr(self, name)
            check_heads(part.dim, part.heads, len(self.grid), f"{name}.dim")
            if part.depth < 1:
                raise ValueError(
                    f"{name}.depth is {part.depth}, but it must be at least 1"
                )
        if self.encoder.dim != self.decoder.dim and not self._projects:
            raise ValueError(
                f"encoder.dim is {self.encoder.dim} and decoder.dim "
                f"{self.decoder.dim}, but DDT's must be equal (DiTDH's need not be)"
            )
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage(ENCODER, self.block(self.encoder), self.encoder.depth),
            Stage(DECODER, self.block(self.decoder), self.decoder.depth),
        )

    @property
    def features(self) -> int:
        """Values a token is read out to."""
        return prod(self.tokens.size) * self.channels

    # What a variant may change.

    @property
    def _projects(self) -> bool:
        """Whether z is brought to the decoder's width."""
        return False

    def block(self, part: Tower) -> AdaRMS:
        """One layer of a tower."""
        options: dict[str, Any] = dict(qk_norm=True, bias=False, zero=False)
        return AdaRMS(part.dim, part.heads, part.hidden, **options)

    def rotary(self, part: Tower) -> tuple[Array, Array]:
        """Columns and rows turn neighbouring pairs, at positions from 0 to 16."""
        last = np.maximum(np.array(self.tokens.shape) - 1, 1)
        places = (16 * self.tokens.coordinates() / last)[:, ::-1]
        axes = len(self.grid)
        share = part.dim // part.heads // axes
        return interleave(rotary_table(places, (share,) * axes), axes)

    def condition(self, vector: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """What modulates the encoder, from the sum of time and label."""
        return vector

    def state(
        self, params: Params, time: Float[Array, "b d"], stream: Float[Array, "b n d"]
    ) -> Float[Array, "b n e"]:
        """z, which modulates the decoder, from the time and the encoder's stream."""
        return per_token(time) + stream

    def enter_encoder(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """What is added to the embedded tokens: nothing."""
        return tokens

    def init_final(self, key: Key) -> Params:
        final = init_final_rms(key, self.decoder.dim, self.features)
        return {name: final[name] for name in ("modulation", "linear")}

    def final(
        self, params: Params, x: Float[Array, "b n d"], vector: Float[Array, "b n d"]
    ) -> Float[Array, "b n e"]:
        """The read-out, modulated by z."""
        return final_layer(params, x, vector, self.features)

    # The family.

    def init(self, key: Key) -> Params:
        """Parameters; the model starts at zero output."""
        keys = jax.random.split(key, 7)
        patch = jnp.zeros((1, self.features))
        time = TimeEmbedding(self.encoder.dim, self.basis)
        params = {
            "encoder": Linear(self.encoder.dim).init(keys[0], patch)["params"],
            "decoder": Linear(self.decoder.dim).init(keys[1], patch)["params"],
            "time": time.init(keys[2], jnp.zeros(1))["params"],
            "final": self.init_final(keys[3]),
        }
        if self._projects:
            z = jnp.zeros((1, self.encoder.dim))
            params["project"] = Linear(self.decoder.dim).init(keys[4], z)["params"]
        if self.conditioning is not None:
            params["label"] = self.conditioning.init(keys[5], self.encoder.dim)
        return params | self.init_stages(keys[6])

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The encoder's stream and context; extra holds what the decoder will need."""
        dtype = jnp.dtype(self.dtype)
        tokens = self.tokens.patchify(x_t.astype(dtype))
        value = self.clock(jnp.asarray(time, jnp.float32))
        embedding = TimeEmbedding(self.encoder.dim, self.basis)
        time = call(embedding, params["time"], value)
        vector = time
        if self.conditioning is not None:
            vector = vector + self.conditioning.apply(params["label"], conditions)
        context = Context(
            self.condition(vector).astype(dtype),
            self.rotary(self.encoder),
            extra={"tokens": tokens, "time": time.astype(dtype)},
        )
        x = call(Linear(self.encoder.dim), params["encoder"], tokens)
        return self.enter_encoder(x), context

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """Between the towers: z from the encoder, and x_t anew for the decoder."""
        if stage == ENCODER:
            return stream, context
        z = self.state(params, context.extra["time"], stream)
        return self._enter_decoder(params, context.extra["tokens"], z)

    def _enter_decoder(
        self, params: Params, tokens: Array, z: Array
    ) -> tuple[Array, Context]:
        x = call(Linear(self.decoder.dim), params["decoder"], tokens)
        return x, Context(z, self.rotary(self.decoder))

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g c"]:
        """Modulated norm, linear layer, and tokens back to their places."""
        x = self.final(params["final"], stream, context.vector)
        return self.tokens.unpatchify(x)

    def encode(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
        *,
        policy: Policy | None = None,
        memory: Memory = None,
        step: Int[Array, ""] | int = 0,
    ) -> Half:
        """z, `b n d`: all that the decoder is told of time and conditions.

        memory: the policy's of the encoder alone, `self.memory(...)[ENCODER]`.
        """
        self._check(x_t, time)
        stream, context = self.embed(params, x_t, time, conditions)
        walked = self._walk(0, params, stream, context, policy, memory, step)
        z = self.state(params, context.extra["time"], walked.stream)
        return Half(z, walked.memory)

    def decode(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        z: Float[Array, "b n d"],
        *,
        policy: Policy | None = None,
        memory: Memory = None,
        step: Int[Array, ""] | int = 0,
    ) -> Half:
        """The prediction, `b *g c`, from x_t and a z of this or an earlier step."""
        tokens = self.tokens.patchify(x_t.astype(jnp.dtype(self.dtype)))
        stream, context = self._enter_decoder(params, tokens, z)
        walked = self._walk(1, params, stream, context, policy, memory, step)
        prediction = self.read_out(params, walked.stream, context)
        return Half(prediction.astype(jnp.float32), walked.memory)

    def _walk(
        self,
        which: int,
        params: Params,
        stream: Array,
        context: Context,
        policy: Policy | None,
        memory: Memory,
        step: Int[Array, ""] | int,
    ) -> stack.Walk:
        stage = self.stages[which]
        return stack.walk(
            stage.block,
            params[stage.name],
            stream,
            context,
            policy=policy,
            policy_params=(params.get("policy") or {}).get(stage.name),
            memory=memory,
            step=step,
            first=which * self.encoder.depth,
            remat=self.remat,
            unroll=self.unroll,
        )


@dataclass(frozen=True)
class DiTDH(DDT):
    """DDT with a shallow, wide decoder, for high-dimensional latents of encoders.

    The wide head of RAE (Zheng et al., 2025): a decoder at least as wide as a token's
    latent. Against `DDT`: the towers' widths differ (z is projected), blocks have
    biases and no QK-norm and start as the identity, sin-cos positions are added in the
    encoder, rotary positions are LightningDiT's, the read-out has an RMSNorm, times are
    Fourier features, and SiLU is applied to the conditions once more. The published
    weights mean `Gaussian(Linear(), "velocity")`, and their clock is ours.

    Source: bytetriper/RAE a4d18c4, src/stage2/models/DDT.py.
    """

    grid: tuple[int, ...] = (16, 16)
    channels: int = 768
    patch: int | tuple[int, ...] = 1
    encoder: Tower = Tower(1152, 28, 16, 3072)
    decoder: Tower = Tower(2048, 2, 16, 5461)
    clock: Clock = LinearClock(1.0, 0.0)
    basis: Sinusoids | Fourier = field(default_factory=fourier)

    @property
    def _projects(self) -> bool:
        return self.encoder.dim != self.decoder.dim

    def block(self, part: Tower) -> AdaRMS:
        return AdaRMS(part.dim, part.heads, part.hidden)

    def rotary(self, part: Tower) -> tuple[Array, Array]:
        return even_rotary(self.tokens, part.dim // part.heads)

    def condition(self, vector: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return nn.silu(vector)

    def state(
        self, params: Params, time: Float[Array, "b d"], stream: Float[Array, "b n d"]
    ) -> Float[Array, "b n e"]:
        z = nn.silu(per_token(time) + stream)
        if not self._projects:
            return z
        return call(Linear(self.decoder.dim), params["project"], z)

    def enter_encoder(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        table = sincos(self.tokens.coordinates(), self.encoder.dim)
        return tokens + table.astype(tokens.dtype)

    def init_final(self, key: Key) -> Params:
        return init_final_rms(key, self.decoder.dim, self.features)

    def final(
        self, params: Params, x: Float[Array, "b n d"], vector: Float[Array, "b n d"]
    ) -> Float[Array, "b n e"]:
        return final_rms(params, x, vector, self.features)


SIZES = {"B": (768, 8, 4, 12), "L": (1024, 20, 4, 16), "XL": (1152, 22, 6, 16)}
"""Width, layers of the encoder and of the decoder, heads: DDT's 22En6De is XL."""

HEADS = {"S": (384, 12, 6), "XL": (1152, 28, 16)}
"""Encoders of the published wide heads; the decoder is 2 layers of 2048 in 16 heads."""


def ddt(size: str = "XL", patch: int = 2, **changes: Any) -> DDT:
    """A published size: "B" (8En4De), "L" (20En4De) or "XL" (22En6De).

    The defaults are those of ImageNet 256: 4 x 32 x 32 latents, 1,000 classes.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(SIZES)}")
    dim, deep, shallow, heads = SIZES[size]
    towers = dict(encoder=tower(dim, deep, heads), decoder=tower(dim, shallow, heads))
    given: dict[str, Any] = dict(patch=patch, **towers)
    return DDT(**given | changes)


def dit_dh(size: str = "XL", **changes: Any) -> DiTDH:
    """A published size: "S" or "XL", on 768 x 16 x 16 latents of DINOv2-B."""
    if size not in HEADS:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(HEADS)}")
    given: dict[str, Any] = dict(
        encoder=tower(*HEADS[size]), decoder=tower(2048, 2, 16)
    )
    return DiTDH(**given | changes)
