# SPDX-License-Identifier: Apache-2.0
"""Two streams, each with weights of its own, attend to the tokens of both."""

import flax.linen as nn
import jax.numpy as jnp

from jdit.attention.heads import Rotary, attend_joined, split_heads
from jdit.linear import Linear, Linears
from jdit.norms import RMSNorm
from jdit.typing import Array, Bool, Float

Heads = tuple[Array, Array, Array]
"""Queries, keys and values, each `b h n k`."""


class Ends(nn.Module):
    """What a stream does before and after attention: `qkv` (`d 3d`) and `out` (`d d`).

    With `qk_norm`, queries and keys are RMS-normalised per head, with scales `q_norm`
    and `k_norm` (`k`).
    """

    dim: int
    heads: int
    qk_norm: bool = True

    def setup(self) -> None:
        self.qkv, self.out = Linears(self.dim), Linear(self.dim)
        if self.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(), RMSNorm()

    def __call__(self, x: Float[Array, "b n d"]) -> Heads:
        q, k, v = (split_heads(y, self.heads) for y in self.qkv(x))
        return (self.q_norm(q), self.k_norm(k), v) if self.qk_norm else (q, k, v)

    def finish(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.out(x)


def join_mask(
    mask: Bool[Array, "b m"] | None, image: Float[Array, "b n d"]
) -> Bool[Array, "b s"] | None:
    """Which tokens are real, text before image, given which text tokens are."""
    if mask is None:
        return None
    return jnp.concatenate([mask, jnp.ones(image.shape[:2], bool)], 1)


class JointAttention(nn.Module):
    """Image and text tokens attend to one another (MM-DiT; Esser et al., 2024).

    Each stream has its own `Ends`, under its name; one attention runs over the tokens
    of both, text before image, which is also the order of `rotary`. mask: which text
    tokens are real.

    heads: number of heads; the width must be a multiple.
    """

    heads: int
    qk_norm: bool = True

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b n d"],
        text: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
        rotary: Rotary | None = None,
    ) -> dict[str, Array]:
        streams = {"text": text, "image": image}
        ends = {
            name: Ends(x.shape[-1], self.heads, self.qk_norm, name=name)
            for name, x in streams.items()
        }
        parts = (ends[name](x) for name, x in streams.items())
        q, k, v = zip(*parts, strict=True)
        seen = join_mask(mask, image)
        outputs = attend_joined(q, k, v, mask=seen, rotary=rotary)
        done = zip(streams, outputs, strict=True)
        return {name: ends[name].finish(x) for name, x in done}


class ReadingAttention(nn.Module):
    """Image tokens attend to both streams, and the text is only read.

    It has the parameters of `JointAttention` but the text's `out`. The text's queries
    are among them, as in the published weights, and have no influence.
    """

    heads: int
    qk_norm: bool = True

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b n d"],
        text: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
        rotary: Rotary | None = None,
    ) -> Float[Array, "b n d"]:
        dim, here = image.shape[-1], text.shape[1]
        own = Ends(dim, self.heads, self.qk_norm, name="image")
        _, *read = Ends(dim, self.heads, self.qk_norm, name="text")(text)
        q, *seen = own(image)
        k, v = zip(read, seen, strict=True)
        own_rotary = None if rotary is None else _after(rotary, here)
        joined = join_mask(mask, image)
        (x,) = attend_joined(
            [q], k, v, mask=joined, rotary=own_rotary, key_rotary=rotary
        )
        return own.finish(x)


def _after(rotary: Rotary, count: int) -> Rotary:
    """The rotations of the tokens after the first `count`."""
    cos, sin = rotary
    return cos[..., count:, :], sin[..., count:, :]
