# SPDX-License-Identifier: Apache-2.0
"""What runs on a multiprocessor: the bodies of `pallas_gpu`'s three kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import e, log, log2
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jdit.typing import Array

LEAST = -1e30
"""The logit of a key that is not seen: finite, so that no infinities are subtracted."""

NARROWEST = 16
"""What a matrix unit takes at least, along any axis."""


@dataclass(frozen=True)
class Blocks:
    """What one program works on: powers of two, and how the compiler should do it.

    queries, keys: of a product. warps: of 32 threads each. stages: how many loads of
    the loop are on their way at a time.
    """

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Call:
    """What is known of a call when it is traced.

    sharing: heads of queries that read the same keys.
    """

    sharing: int
    n: int
    m: int
    width: int
    masked: bool
    segmented: bool
    blocks: Blocks

    @property
    def scale(self) -> float:
        """Of logits whose base is two."""
        return self.width**-0.5 * log2(e)

    def queries(self, block: Any) -> "Rows":
        return Rows(block * self.blocks.queries, self.blocks.queries, self.n)

    def keys(self, block: Any) -> "Rows":
        return Rows(block * self.blocks.keys, self.blocks.keys, self.m)


class Rows(NamedTuple):
    """Some tokens in a row, of so many in all."""

    first: Any
    size: int
    total: int

    @property
    def real(self) -> Array | None:
        """Which of them there are; None if all are, because blocks fit exactly."""
        if self.total % self.size == 0:
            return None
        return self.first + jnp.arange(self.size) < self.total

    def of(self, ref: Any, at: tuple[Any, ...], missing: float) -> Array:
        """Their entries in a row of numbers."""
        ref = ref.at[(*at, pl.ds(self.first, self.size))]
        real = self.real
        return plgpu.load(ref, mask=real, other=None if real is None else missing)


def parts(width: int) -> list[tuple[int, int]]:
    """Where the parts of a head start, and their sizes: powers of two, 72 = 64 + 16.

    A product wants powers of two. One of 128 for a head of 72 would be mostly zeros.
    """
    left = -(-width // NARROWEST) * NARROWEST
    found: list[tuple[int, int]] = []
    while left:
        size = 1 << (left.bit_length() - 1)
        found.append((sum(each for _, each in found), size))
        left -= size
    return found


def forward_kernel(call: Call, names: tuple[str, ...], *refs: Any) -> None:
    """refs: inputs by `names`, output and log-sum-exp."""
    read, (out_ref, lse_ref) = dict(zip(names, refs, strict=False)), refs[-2:]
    i, r, g, b = (pl.program_id(axis) for axis in range(4))
    rows = call.queries(i)
    q = _tile(call, read["q"], (b, g, r), rows)

    def turn(j: Any, state: Any, ragged: bool) -> Any:
        acc, top, total = state
        cols = call.keys(j)
        s = _products(q, _tile(call, read["k"], (b, g), cols))
        s = _hidden(call, read, b, s, rows, cols, ragged)
        new = jnp.maximum(top, s.max(1))
        p = jnp.exp2(s * call.scale - (new * call.scale)[:, None])
        shrink = jnp.exp2((top - new) * call.scale)
        total = total * shrink + p.sum(1)
        v = _tile(call, read["v"], (b, g), cols)
        p = p.astype(v[0].dtype)
        acc = [
            x * shrink[:, None] + _dot(p, y, 1, 0) for x, y in zip(acc, v, strict=True)
        ]
        return acc, new, total

    row = jnp.zeros((rows.size,), jnp.float32)
    state = _loop(call, turn, (_zeros(call, rows), row + LEAST, row))
    acc, top, total = state
    out = [x / total[:, None] for x in acc]
    lse = top * (call.scale * log(2)) + jnp.log(total)
    if call.masked or call.segmented:
        some = top > LEAST / 2
        out = [jnp.where(some[:, None], x, 0) for x in out]
        lse = jnp.where(some, lse, -jnp.inf)
    _keep(call, out_ref, (b, g, r), rows, out)
    plgpu.store(lse_ref.at[b, g, r, pl.ds(rows.first, rows.size)], lse, mask=rows.real)


def queries_kernel(call: Call, names: tuple[str, ...], *refs: Any) -> None:
    """refs: inputs by `names`, the gradient of q."""
    read, dq_ref = dict(zip(names, refs, strict=False)), refs[-1]
    i, r, g, b = (pl.program_id(axis) for axis in range(4))
    rows = call.queries(i)
    q, bar = (_tile(call, read[x], (b, g, r), rows) for x in ("q", "d_out"))
    lse, delta = _known(read, (b, g, r), rows)

    def turn(j: Any, dq: list[Array], ragged: bool) -> list[Array]:
        cols = call.keys(j)
        k = _tile(call, read["k"], (b, g), cols)
        s = _hidden(call, read, b, _products(q, k), rows, cols, ragged)
        p = jnp.exp2(s * call.scale - lse[:, None])
        dp = _products(bar, _tile(call, read["v"], (b, g), cols))
        ds = (p * (dp - delta[:, None])).astype(k[0].dtype)
        return [x + _dot(ds, y, 1, 0) for x, y in zip(dq, k, strict=True)]

    dq = _loop(call, turn, _zeros(call, rows))
    _keep(call, dq_ref, (b, g, r), rows, [x * call.width**-0.5 for x in dq])


def keys_kernel(call: Call, names: tuple[str, ...], *refs: Any) -> None:
    """refs: inputs by `names`, gradients of k and v: sums over heads that read them.

    Logits are `m n` here, so that no product needs its left side turned.
    """
    read, (dk_ref, dv_ref) = dict(zip(names, refs, strict=False)), refs[-2:]
    j, g, b = (pl.program_id(axis) for axis in range(3))
    cols, blocks = call.keys(j), pl.cdiv(call.n, call.blocks.queries)
    k, v = (_tile(call, read[x], (b, g), cols) for x in "kv")

    def turn(at: Any, state: Any) -> Any:
        dk, dv = state
        r, rows = lax.div(at, blocks), call.queries(lax.rem(at, blocks))
        q, bar = (_tile(call, read[x], (b, g, r), rows) for x in ("q", "d_out"))
        lse, delta = _known(read, (b, g, r), rows)
        s = _hidden(call, read, b, _products(k, q), rows, cols, False, turned=True)
        p = jnp.exp2(s * call.scale - lse[None])
        ds = (p * (_products(v, bar) - delta[None])).astype(q[0].dtype)
        p = p.astype(bar[0].dtype)
        dv = [x + _dot(p, y, 1, 0) for x, y in zip(dv, bar, strict=True)]
        return [x + _dot(ds, y, 1, 0) for x, y in zip(dk, q, strict=True)], dv

    state = _zeros(call, cols), _zeros(call, cols)
    dk, dv = lax.fori_loop(0, call.sharing * blocks, turn, state)
    _keep(call, dk_ref, (b, g), cols, [x * call.width**-0.5 for x in dk])
    _keep(call, dv_ref, (b, g), cols, dv)


def _loop(call: Call, turn: Callable[..., Any], state: Any) -> Any:
    """`state = turn(j, state, ragged)` over blocks of keys; the last may be ragged."""
    whole = call.m // call.blocks.keys
    state = lax.fori_loop(0, whole, partial(turn, ragged=False), state)
    if call.m % call.blocks.keys == 0:
        return state
    # A loop, because a slice that is known to run over the end is refused.
    return lax.fori_loop(whole, whole + 1, partial(turn, ragged=True), state)


def _known(read: dict[str, Any], at: tuple[Any, ...], rows: Rows) -> list[Array]:
    """Of some queries, the log-sum-exp and what is subtracted from gradients.

    A query that is not there gets a log-sum-exp with which all its weights are zeros.
    """
    lse, delta = (rows.of(read[x], at, -LEAST) for x in ("lse", "delta"))
    real = rows.real
    return [lse, delta if real is None else jnp.where(real, delta, 0)]


def _hidden(
    call: Call, read: dict[str, Any], b: Any, s: Array, rows: Rows, cols: Rows,
    ragged: bool, turned: bool = False,
) -> Array:  # fmt: skip
    """Logits with `LEAST` where a query does not see a key."""

    def lay(x: Array) -> Array:
        return x[:, None] if turned else x[None]

    seen = []
    if call.masked:
        seen.append(lay(cols.of(read["mask"], (b,), 0) != 0))
    elif ragged:
        seen.append(lay(cols.first + jnp.arange(cols.size) < cols.total))
    if call.segmented:
        of_queries = rows.of(read["of_queries"], (b,), 0)
        of_keys = cols.of(read["of_keys"], (b,), 0)
        of_queries = of_queries[None] if turned else of_queries[:, None]
        seen.append(of_queries == lay(of_keys))
    for some in seen:
        s = jnp.where(some, s, LEAST)
    return s


def _tile(call: Call, ref: Any, at: tuple[Any, ...], rows: Rows) -> list[Array]:
    """Some tokens of a head, in parts along its width; zeros where there is nothing."""
    found = []
    for start, size in parts(call.width):
        mask = _inside(call, rows, start, size)
        other = None if mask is None else 0.0
        found.append(
            plgpu.load(_there(ref, at, rows, start, size), mask=mask, other=other)
        )
    return found


def _keep(
    call: Call, ref: Any, at: tuple[Any, ...], rows: Rows, tile: list[Array]
) -> None:
    for (start, size), x in zip(parts(call.width), tile, strict=True):
        mask = _inside(call, rows, start, size)
        there = _there(ref, at, rows, start, size)
        plgpu.store(there, x.astype(ref.dtype), mask=mask)


def _there(ref: Any, at: tuple[Any, ...], rows: Rows, start: int, size: int) -> Any:
    """A part of a tile; `at` is image and head, and heads lie inside tokens."""
    b, *head = at
    return ref.at[(b, pl.ds(rows.first, rows.size), *head, pl.ds(start, size))]


def _inside(call: Call, rows: Rows, start: int, size: int) -> Array | None:
    """Where there is something; None for everywhere."""
    real = None if rows.real is None else rows.real[:, None]
    if start + size <= call.width:
        return real
    narrow = (start + jnp.arange(size) < call.width)[None]
    return narrow if real is None else real & narrow


def _zeros(call: Call, rows: Rows) -> list[Array]:
    return [jnp.zeros((rows.size, size), jnp.float32) for _, size in parts(call.width)]


def _products(x: list[Array], y: list[Array]) -> Array:
    """`x y^T`, summed over parts."""
    first, *others = (_dot(a, b, 1, 1) for a, b in zip(x, y, strict=True))
    for other in others:
        first = first + other
    return first


def _dot(x: Array, y: Array, over: int, of: int) -> Array:
    """A product that sums over an axis of each, in float32."""
    dims = (((over,), (of,)), ((), ()))
    return lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)
