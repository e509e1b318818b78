# SPDX-License-Identifier: Apache-2.0
"""Attention over split tokens by moving keys: they go round while they are used."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jdit.ops.attention import attention_with_lse
from jdit.ops.attention.api import chosen
from jdit.typing import Array, Bool, Float

Block = tuple[Array, Array, Array | None]
"""Keys, values and which of them are real."""

LEAST = jnp.finfo(jnp.float32).min


@dataclass(frozen=True)
class Ring:
    """Keys and values go from device to device while each attends to what it has.

    Softmax over the blocks is joined by their log-sum-exps, so that no device ever has
    the keys of all. One half of each block goes round one way and the other half the
    other way, which uses both directions of every link; a block is on its way while the
    one before it is attended to. About `2 n d (s - 1) / s` numbers are sent forward,
    more than `Ulysses` sends, but any number of heads will do.

    The backward pass goes round again, with the gradients of keys and values beside
    them: it keeps this device's queries, keys, values and output alone. Reverse mode
    only. Source: Liu et al. (2023), Ring Attention, section 3.
    """

    def head_parts(self, size: int) -> int:
        """How many parts the heads are split into: they stay whole."""
        return 1

    def __call__(
        self,
        q: Float[Array, "b h n k"],
        k: Float[Array, "b g m k"],
        v: Float[Array, "b g m k"],
        mask: Bool[Array, "b m"] | None,
        axis: str,
    ) -> Float[Array, "b h n k"]:
        """One device's queries, attending to the keys of all, within `shard_map`."""
        return _ring(q, k, v, mask, axis)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _ring(q: Array, k: Array, v: Array, mask: Array | None, axis: str) -> Array:
    return _forward(q, k, v, mask, axis)[0]


def _forward(q: Array, k: Array, v: Array, mask: Array | None, axis: str) -> Any:
    def join(sofar: tuple[Array, Array], block: Block) -> tuple[Array, Array]:
        out, lse = _attend(q, block)
        old, old_lse = sofar
        both = jnp.logaddexp(old_lse, lse)
        one, two = (jnp.exp(x - both)[..., None] for x in (old_lse, lse))
        return one * old + two * out, both

    def step(carry: Any, _: None) -> tuple[Any, None]:
        block, sofar = carry
        following = _pass_on(block, axis)  # on its way while this one is used
        return (following, join(sofar, block)), None

    sofar = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:-1], LEAST)
    rest = lax.axis_size(axis) - 1
    (block, sofar), _ = lax.scan(step, ((k, v, mask), sofar), None, length=rest)
    out, lse = join(sofar, block)
    out = jnp.where(lse[..., None] > LEAST / 2, out, 0).astype(q.dtype)
    return out, (q, k, v, mask, out, lse)


def _backward(axis: str, kept: Any, d_out: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, mask, out, lse = kept
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1)
    gradients = partial(_gradients, q, lse, d_out, delta)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        block, d_block, d_q = carry
        following, arrived = _pass_on(block, axis), _pass_on(d_block, axis)
        more, mine = gradients(block)
        return (following, _sum(arrived, mine), d_q + more), None

    block: Block = k, v, mask
    following = _pass_on(block, axis)
    d_q, d_block = gradients(block)
    rest = lax.axis_size(axis) - 1
    if rest:
        carry = following, d_block, d_q
        carry, _ = lax.scan(step, carry, None, length=rest - 1)
        block, d_block, d_q = carry
        arrived = _pass_on(d_block, axis)
        more, mine = gradients(block)
        d_q = d_q + more
        d_block = _pass_on(_sum(arrived, mine), axis)  # home
    d_k, d_v = d_block
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None


_ring.defvjp(_forward, _backward)


def _attend(q: Array, block: Block) -> tuple[Array, Array]:
    """Attention to one block and its log-sum-exp, float32 and never infinite."""
    k, v, mask = block
    out, lse = attention_with_lse(q, k, v, mask=mask)
    return out.astype(jnp.float32), jnp.maximum(lse, LEAST)


def _gradients(
    q: Array, lse: Array, d_out: Array, delta: Array, block: Block
) -> tuple[Array, tuple[Array, Array]]:
    """Those of the queries, and of one block's keys and values, in float32.

    The whole output is `sum_i w_i out_i` with `w_i = exp(lse_i - lse)`, so a block's
    own output has the cotangent `w_i d_out`, and its own log-sum-exp
    `w_i (out_i - out) . d_out`.
    """
    k, v, mask = block
    plain = chosen(q, k, lse=True) == "recompute"
    kept: Any = "reference" if plain else None  # not for long

    def run(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        return attention_with_lse(q, k, v, mask=mask, implementation=kept)

    (out, own), pull = jax.vjp(run, q, k, v)
    weight = jnp.exp(jnp.maximum(own, LEAST) - lse)
    met = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1)
    bars = weight[..., None] * d_out.astype(jnp.float32), weight * (met - delta)
    d_q, d_k, d_v = pull((bars[0].astype(out.dtype), bars[1]))
    return d_q.astype(jnp.float32), (d_k.astype(jnp.float32), d_v.astype(jnp.float32))


def _pass_on(block: Any, axis: str) -> Any:
    """The neighbours' blocks: the first half of one, the second half of the other."""
    size = lax.axis_size(axis)
    up = [(i, (i + 1) % size) for i in range(size)]
    down = [(j, i) for i, j in up]

    def move(x: Array) -> Array:
        tokens = 1 if x.ndim == 2 else 2
        half = x.shape[tokens] // 2
        if size == 2 or not half:
            return lax.ppermute(x, axis, up)
        one, two = jnp.split(x, [half], tokens)
        moved = lax.ppermute(one, axis, up), lax.ppermute(two, axis, down)
        return jnp.concatenate(moved, tokens)

    return jax.tree.map(move, block)


def _sum(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)
