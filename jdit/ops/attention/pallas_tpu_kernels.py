# SPDX-License-Identifier: Apache-2.0
"""What runs on a TensorCore: the bodies of `pallas_tpu`'s two kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import e, log, log2
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jdit.typing import Array

LANES = 128
UNROLLED = 4
"""At most so many passes over keys are written out, so that they overlap."""

LEAST = -1e30
"""The logit of a key that is not seen: finite, so that no infinities are subtracted."""


@dataclass(frozen=True)
class Blocks:
    """What a step of the grid works on.

    heads: of keys. queries: at a time. keys: a pass of the inner loop. resident: keys
    in the chip's memory at a time, whole passes.
    """

    heads: int
    queries: int
    keys: int
    resident: int


@dataclass(frozen=True)
class Call:
    """What is known of a call when it is traced.

    sharing: heads of queries that read the same keys. axis: of the grid, the one over
    steps through the keys.
    """

    batch: int
    groups: int
    sharing: int
    n: int
    m: int
    width: int
    masked: bool
    segmented: bool
    blocks: Blocks
    axis: int
    interpret: bool

    @property
    def steps(self) -> int:
        return pl.cdiv(self.m, self.blocks.resident)

    @property
    def passes(self) -> int:
        return self.blocks.resident // self.blocks.keys

    @property
    def scale(self) -> float:
        """Of logits whose base is two."""
        return self.width**-0.5 * log2(e)

    def ragged(self, turn: Any) -> bool:
        """Whether a pass may run over the last key."""
        if self.steps == 1:
            last = isinstance(turn, int) and turn == self.passes - 1
            return last and self.m < self.blocks.resident
        return self.m % self.blocks.resident != 0


def forward_kernel(call: Call, names: tuple[str, ...], *refs: Any) -> None:
    """refs: inputs by `names`, output and log-sum-exp, and what is kept of a row of
    queries where its keys come in several steps."""
    read = dict(zip(names, refs, strict=False))
    out_ref, lse_ref, *kept = refs[len(names) :]
    here, step = call.blocks, pl.program_id(call.axis)

    def scores(head: Any, j: Any) -> Array:
        q = _scaled(call, read["q"][0, head, 0])
        return _scores(call, read, q, _keys(call, read["k"], head, j), j)

    def begin(head: Any) -> tuple[Array, ...]:
        row = jnp.zeros((1, here.queries), jnp.float32)
        fresh = jnp.zeros((call.width, here.queries), jnp.float32), row + LEAST, row
        if not kept:
            return fresh

        @pl.when(step == 0)
        def _() -> None:
            for ref, x in zip(kept, fresh, strict=True):
                ref[head] = x

        return tuple(ref[head] for ref in kept)

    def turn(
        head: Any, j: Any, s: Array, state: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        acc, top, total = state
        v = _keys(call, read["v"], head, j)
        new = jnp.maximum(top, s.max(0, keepdims=True))
        p, shrink = jnp.exp2(s - new), jnp.exp2(top - new)
        total = total * shrink + p.sum(0, keepdims=True)
        return acc * shrink + _dot(v, p.astype(v.dtype), 1, 0), new, total

    def finish(head: Any, state: tuple[Array, ...]) -> None:
        acc, top, total = state
        out, lse = acc / total, (top + jnp.log2(total)) * log(2)
        if call.masked or call.segmented:
            some = top > LEAST / 2
            out, lse = jnp.where(some, out, 0), jnp.where(some, lse, -jnp.inf)
        out_ref[0, head, 0] = out.astype(out_ref.dtype)
        lse_ref[0, head, 0] = lse

    def end(head: Any, state: tuple[Array, ...]) -> None:
        if not kept:
            return finish(head, state)
        for ref, x in zip(kept, state, strict=True):
            ref[head] = x
        pl.when(step == call.steps - 1)(partial(finish, head, state))

    def several(heads: list[Any]) -> None:
        """Each pass's logits before the softmax of the pass before: they overlap."""
        turns = [(head, j) for head in heads for j in range(call.passes)]
        ahead, state = scores(*turns[0]), begin(heads[0])
        for at, (head, j) in enumerate(turns):
            s = ahead
            if at + 1 < len(turns):
                ahead = scores(*turns[at + 1])
            state = turn(head, j, s, state)
            if j == call.passes - 1:
                end(head, state)
                state = begin(turns[at + 1][0]) if at + 1 < len(turns) else state

    def one(head: Any) -> None:
        together = max(x for x in range(1, UNROLLED + 1) if call.passes % x == 0)

        def some(first: Any, state: Any) -> tuple[Array, ...]:
            ahead = scores(head, first)
            for at in range(together):
                s = ahead
                if at + 1 < together:
                    ahead = scores(head, first + at + 1)
                state = turn(head, first + at, s, state)
            return state

        state, last = begin(head), call.passes - together
        if last:
            rounds = call.passes // together - 1
            state = lax.fori_loop(0, rounds, lambda i, x: some(i * together, x), state)
        end(head, some(last, state))

    if _light(call):
        several(list(range(here.heads)))
    else:
        _each(here.heads, one, False)


def backward_kernel(call: Call, names: tuple[str, ...], *refs: Any) -> None:
    """refs: inputs by `names`, gradients of q, k and v, and sums of the latter two
    where queries come in several steps."""
    read = dict(zip(names, refs, strict=False))
    dq_ref, dk_ref, dv_ref, *sums = refs[len(names) :]
    here = call.blocks
    r, i = pl.program_id(3), pl.program_id(4)
    first, last = (
        (r == 0) & (i == 0),
        (r == call.sharing - 1) & (i == pl.cdiv(call.n, here.queries) - 1),
    )

    def one(head: Any) -> None:
        q = _scaled(call, read["q"][0, head, 0])
        bar, out = read["d_out"][0, head, 0], read["out"][0, head, 0]
        delta = (bar.astype(jnp.float32) * out.astype(jnp.float32)).sum(
            0, keepdims=True
        )
        delta = delta - read["d_lse"][0, head, 0]
        lse = read["lse"][0, head, 0]
        if call.n % here.queries:  # what lies behind the last query is not a number
            lane = lax.broadcasted_iota(jnp.int32, (1, here.queries), 1)
            real = lane + i * here.queries < call.n
            q, bar, delta = (
                jnp.where(real, x, jnp.zeros_like(x)) for x in (q, bar, delta)
            )
            lse = jnp.where(real, lse, -LEAST)

        def turn(j: Any, dq: Array) -> Array:
            k, v = (_keys(call, read[x], head, j) for x in "kv")
            p = jnp.exp2(_scores(call, read, q, k, j) - lse)
            ds = (p * (_dot(v, bar, 0, 0) - delta)).astype(k.dtype)
            there = (head, slice(None), _span(call, j))
            dv, dk = _dot(bar, p.astype(bar.dtype), 1, 1), _dot(q, ds, 1, 1)
            if sums:
                sums[0][there] += dk
                sums[1][there] += dv
            else:
                dk_ref[(0, *there)] = (dk * log(2)).astype(dk_ref.dtype)
                dv_ref[(0, *there)] = dv.astype(dv_ref.dtype)
            return dq + _dot(k, ds, 1, 0)

        if sums:

            @pl.when(first)
            def _() -> None:
                for ref in sums:
                    ref[head] = jnp.zeros(ref.shape[1:], jnp.float32)

        dq = jnp.zeros((call.width, here.queries), jnp.float32)
        dq = _loop(call.passes, turn, dq, call.passes <= 2)
        dq_ref[0, 0, head, 0] = (dq * call.width**-0.5).astype(dq_ref.dtype)
        if sums:

            @pl.when(last)
            def _() -> None:
                dk_ref[0, head] = (sums[0][head] * log(2)).astype(dk_ref.dtype)
                dv_ref[0, head] = sums[1][head].astype(dv_ref.dtype)

    _each(here.heads, one, _light(call))


def _scaled(call: Call, q: Array) -> Array:
    return (q.astype(jnp.float32) * call.scale).astype(q.dtype)


def _span(call: Call, j: Any) -> Any:
    size = call.blocks.keys
    if call.passes == 1:
        return slice(None)
    return pl.ds(
        j * size if isinstance(j, int) else pl.multiple_of(j * size, size), size
    )


def _left(call: Call, j: Any) -> Any:
    """How many keys there are from the first one of a pass on."""
    here = call.blocks
    before = j * here.keys
    if call.steps > 1:
        before += pl.program_id(call.axis) * here.resident
    return call.m - before


def _keys(call: Call, ref: Any, head: Any, j: Any) -> Array:
    """Keys or values of a pass, `k m`; zeros behind the last one."""
    x = ref[0, head, :, _span(call, j)]
    if not call.ragged(j):
        return x
    lane = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(lane < _left(call, j), x, jnp.zeros_like(x))


def _scores(call: Call, read: dict[str, Any], q: Array, k: Array, j: Any) -> Array:
    """Logits `m n` of a pass, base two; `LEAST` or less where a key is not seen."""
    s = _dot(k, q, 0, 0)
    keys, copies = k.shape[1], q.shape[1] // LANES
    if call.segmented:
        of_keys = _column(read["of_keys"][0, :, _span(call, j)], copies)
        s = jnp.where(of_keys == read["of_queries"][0], s, LEAST)
    bias = None
    if call.masked:
        bias = _column(read["mask"][0, :, _span(call, j)], 1)
    if call.ragged(j):
        row = lax.broadcasted_iota(jnp.int32, (keys, LANES), 0)
        bias = jnp.where(row < _left(call, j), 0.0 if bias is None else bias, LEAST)
    return s if bias is None else s + _copies(bias, copies)


def _column(row: Array, copies: int) -> Array:
    """A row `1 m` as columns `m n`, all the same."""
    return _copies(jnp.broadcast_to(row, (LANES, row.shape[1])).T, copies)


def _copies(x: Array, count: int) -> Array:
    return x if count == 1 else jnp.concatenate([x] * count, 1)


def _dot(x: Array, y: Array, over: int, of: int) -> Array:
    """A product that sums over an axis of each, in float32."""
    dims = (((over,), (of,)), ((), ()))
    return lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)


def _loop(count: int, turn: Callable[..., Any], state: Any, unrolled: bool) -> Any:
    """`state = turn(j, state)`; the last turn alone, because it may be ragged."""
    if unrolled:
        for j in range(count):
            state = turn(j, state)
        return state
    return turn(count - 1, lax.fori_loop(0, count - 1, turn, state))


def _each(count: int, one: Callable[[Any], None], unrolled: bool) -> None:
    if unrolled or count == 1:
        for head in range(count):
            one(head)
    else:
        lax.fori_loop(0, count, lambda head, _: one(head), None)


def _light(call: Call) -> bool:
    """Whether a step's logits are few enough to write its instructions out."""
    here = call.blocks
    return here.heads * here.queries * here.resident <= 2**20
