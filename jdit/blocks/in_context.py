# SPDX-License-Identifier: Apache-2.0
"""Blocks of two streams of one kind: what is shown, and what is asked for."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.attention import attend, split_heads
from jdit.linear import Linear, Linears, SwiGLU, call, zeros
from jdit.norms import RMSNorm, rms_norm
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params, Stream

STREAMS = ("shown", "asked")


def paired(x: Float[Array, "b h n k"]) -> Float[Array, "b h n k"]:
    """Queries or keys, so that what is turned together lies together.

    Each of three axes turns a third of a head, and the published weights turn its
    first half with its second. Reordering queries and keys alike changes no product.
    """
    return rearrange(x, "b h n (a p j) -> b h n (a j p)", a=3, p=2)


class GroupedEnds(nn.Module):
    """A stream's queries, keys and values before attention, and `out` after it.

    Queries and keys are RMS-normalised over all heads at once, with scales `q_norm`
    and `k_norm`; there are `groups` times fewer heads of keys and values. Parameters
    `q` (`d d`), `kv` (keys, then values) and `out`; nothing has a bias.
    """

    dim: int
    heads: int
    groups: int = 1

    def setup(self) -> None:
        few = self.dim // self.groups
        self.q = Linear(self.dim, use_bias=False)
        self.kv = Linears(few, use_bias=False, parts=2)
        self.out = Linear(self.dim, use_bias=False)
        self.q_norm, self.k_norm = RMSNorm(), RMSNorm()

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        k, v = self.kv(x)
        q = self.q_norm(self.q(x))
        fewer = self.heads // self.groups
        return (
            paired(split_heads(q, self.heads)),
            paired(split_heads(self.k_norm(k), fewer)),
            split_heads(v, fewer),
        )

    def finish(self, x: Array) -> Array:
        return self.out(x)


class JoinedAttention(nn.Module):
    """The tokens of both streams attend to all of them, shown before asked."""

    heads: int
    groups: int = 1

    @nn.compact
    def __call__(self, shown: Array, asked: Array, rotary: tuple) -> dict[str, Array]:
        dim, here = shown.shape[-1], shown.shape[1]
        ends = [GroupedEnds(dim, self.heads, self.groups, name=n) for n in STREAMS]
        parts = zip(ends[0](shown), ends[1](asked), strict=True)
        q, k, v = (jnp.concatenate(part, -2) for part in parts)
        x = attend(q, k, v, rotary=rotary)
        return {
            "shown": ends[0].finish(x[:, :here]),
            "asked": ends[1].finish(x[:, here:]),
        }


@dataclass(frozen=True)
class InContext:
    """LaVin-DiT's block: joint attention, then a SwiGLU for each stream.

    `x + tanh(gate) rms(f((1 + scale) rms(x)))`, norms without scales before and after
    each branch f. Scale (`modulation`) and `gate` are linear in SiLU of the stream's
    own vector, and start at zero. Streams are {"shown": `b n d`, "asked": `b m d`};
    `context.extra["vectors"]` has a vector for each, under the same names.

    dim: width; heads: of queries; groups: queries that share a key (GQA). hidden: of
    the SwiGLU.
    """

    dim: int
    heads: int
    groups: int
    hidden: int

    branches = ("attention", "mlp")

    @property
    def _attention(self) -> JoinedAttention:
        return JoinedAttention(self.heads, self.groups)

    @property
    def _mlp(self) -> SwiGLU:
        return SwiGLU(self.hidden, use_bias=False)

    @property
    def _vector(self) -> Linear:
        return Linear(self.dim, kernel_init=zeros)

    def init(self, key: Key) -> Params:
        keys, x = jax.random.split(key, 3), jnp.zeros((1, 1, self.dim))
        table = jnp.ones((2, self.dim // self.heads // 2))
        attention = self._attention.init(keys[0], x, x, (table, 0 * table))["params"]
        mlp = {
            name: self._mlp.init(k, x)["params"]
            for name, k in zip(STREAMS, keys[1:], strict=True)
        }
        vector = self._vector.init(key, x[:, 0])["params"]
        return {
            branch: {
                name: {"modulation": vector, "gate": vector, **tree[name]}
                for name in STREAMS
            }
            for branch, tree in {"attention": attention, "mlp": mlp}.items()
        }

    def _of_vector(
        self, part: str, params: Params, name: str, context: Context
    ) -> Array:
        vector = nn.silu(context.extra["vectors"][name])
        return call(self._vector, params[name][part], vector)[:, None]

    def output(
        self, name: str, params: Params, stream: Stream, context: Context
    ) -> Stream:
        x = {
            key: rms_norm(stream[key])
            * (1 + self._of_vector("modulation", params, key, context))
            for key in STREAMS
        }
        if name == "attention":
            x = call(self._attention, params, x["shown"], x["asked"], context.rotary)
        else:
            x = {key: call(self._mlp, params[key], x[key]) for key in STREAMS}
        return {key: rms_norm(x[key]) for key in STREAMS}

    def merge(
        self,
        name: str,
        params: Params,
        stream: Stream,
        output: Stream,
        context: Context,
    ) -> Stream:
        gates = {
            key: jnp.tanh(self._of_vector("gate", params, key, context))
            for key in STREAMS
        }
        return {
            key: stream[key] + gates[key] * output[key].astype(stream[key].dtype)
            for key in STREAMS
        }
