# SPDX-License-Identifier: Apache-2.0
"""Queries and keys normed, turned and transposed in one TPU kernel, or left to XLA?

    python benchmarks/fused_rope_tpu.py v5e                    # all shapes
    python benchmarks/fused_rope_tpu.py v5p "LightningDiT-XL"  # some

Needs libtpu (`pip install 'jdit[tpu]'`) and a CPU. What a time is: tpu_schedules.py.
The kernels are complete (`fused` is the reference with its gradients; `check` compares
them, interpreted), but not in the library: the table says why.

All columns are of one piece of a block: the product that gives queries, keys and
values; RMS norm of each head's queries and keys; their rotation; heads before widths
before tokens, as our attention reads them. "pairs" takes neighbouring channels apart
and stacks them again; "product" finds each channel's neighbour by a product with a
matrix of 0, 1 and -1, as `jdit.tokens.positions.rotate` does; "early" too, but tells
XLA from the start that tokens come last.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tpu_schedules import SLICES, launches  # first: it sets libtpu up

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import SingleDeviceSharding

from jdit.attention import split_heads
from jdit.compile import Topology, topology
from jdit.norms import rms_norm


class Shape(NamedTuple):
    """Images, tokens, heads and their width."""

    batch: int
    tokens: int
    heads: int
    width: int


SHAPES = {
    "LightningDiT-XL": Shape(8, 256, 16, 72),
    "DiT-S with rotations": Shape(8, 256, 6, 64),
    "Flux": Shape(1, 4608, 24, 128),
}
EPS, LANES = 1e-6, 128
Results = tuple[Any, ...]


def neighbours(width: int) -> np.ndarray:
    """A matrix: `x @ it` is (-x1, x0, -x3, x2, ...)."""
    even = np.arange(0, width, 2)
    found = np.zeros((width, width), np.float32)
    found[even + 1, even], found[even, even + 1] = -1, 1
    return found


def by_product(x: Any, cos: Any, sin: Any) -> Any:
    matrix = jnp.asarray(neighbours(x.shape[-1]), x.dtype)
    other = jnp.matmul(x, matrix, precision=lax.Precision.HIGHEST)
    cos, sin = (jnp.repeat(table, 2, -1) for table in (cos, sin))
    turned = x.astype(jnp.float32) * cos + other.astype(jnp.float32) * sin
    return turned.astype(x.dtype)


def by_pairs(x: Any, cos: Any, sin: Any) -> Any:
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    pair = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
    return pair.reshape(x.shape).astype(x.dtype)


def plain(rotate: Callable[..., Any], qkv: Any, scales: Any, cos: Any, sin: Any) -> Any:
    """scales: `2 k`, of queries and keys. Gives q, k and v, `b h k n`."""
    heads = qkv.shape[-1] // (3 * scales.shape[-1])
    q, k, v = (split_heads(x, heads) for x in jnp.split(qkv, 3, -1))
    turned = [
        rotate(rms_norm(x, EPS) * scale, cos, sin)
        for x, scale in zip((q, k), scales, strict=True)
    ]
    return tuple(x.swapaxes(-1, -2) for x in (*turned, v))


def early(qkv: Any, scales: Any, cos: Any, sin: Any) -> Results:
    """The same with tokens last from the start."""
    width = scales.shape[-1]
    q, k, v = rearrange(qkv, "b n (p h k) -> p b h k n", p=3, k=width)
    matrix = jnp.asarray(neighbours(width), qkv.dtype)
    cos, sin = (jnp.repeat(table.T, 2, 0) for table in (cos, sin))

    def turned(x: Any, scale: Any) -> Any:
        full = x.astype(jnp.float32)
        rate = lax.rsqrt(jnp.square(full).mean(-2, keepdims=True) + EPS)
        y = (full * rate).astype(x.dtype) * scale[:, None]
        other = jnp.einsum("ij,bhin->bhjn", matrix, y, precision=lax.Precision.HIGHEST)
        found = y.astype(jnp.float32) * cos + other.astype(jnp.float32) * sin
        return found.astype(x.dtype)

    return turned(q, scales[0]), turned(k, scales[1]), v


@jax.custom_vjp
def fused(qkv: Any, scales: Any, cos: Any, sin: Any) -> Results:
    """`plain` in one kernel each way; no gradients of the tables."""
    return _forward(qkv, scales, cos, sin)


def _forward(*operands: Any, interpret: bool = False) -> Results:
    return _call(_forward_kernel, (), *operands, interpret)


def _backward(saved: Results, bars: Results, interpret: bool = False) -> Results:
    d_qkv, sums = _call(_backward_kernel, bars, *saved, interpret)
    scales, *tables = saved[1:]
    d_scales = sums.sum((0, -1)).astype(scales.dtype)
    return d_qkv, d_scales, *map(jnp.zeros_like, tables)


fused.defvjp(lambda *operands: (_forward(*operands), operands), _backward)


def _call(
    kernel: Callable[..., None],
    bars: Results,
    qkv: Any,
    scales: Any,
    cos: Any,
    sin: Any,
    interpret: bool,
) -> Results:
    batch, tokens, wide = qkv.shape
    width = scales.shape[-1]
    heads = wide // (3 * width)
    rows = LANES if tokens % 256 or wide > 4096 else 256
    flat = pl.BlockSpec((1, rows, wide), lambda b, i: (b, i, 0))
    turned = pl.BlockSpec((1, heads, width, rows), lambda b, i: (b, 0, 0, i))
    table = pl.BlockSpec((width, rows), lambda b, i: (0, i))
    tables = [jnp.repeat(x, 2, -1).T for x in (cos, sin)]
    matrix = jnp.asarray(neighbours(width).T, qkv.dtype)
    columns = jnp.broadcast_to(scales[..., None], (2, width, LANES))
    kept = [
        pl.BlockSpec(x.shape, lambda b, i, x=x: (0,) * x.ndim)
        for x in (columns, matrix)
    ]
    each = jax.ShapeDtypeStruct((batch, heads, width, tokens), qkv.dtype)
    out_specs, out_shape = [turned] * 3, [each] * 3
    if bars:
        out_specs = [
            flat,
            pl.BlockSpec((1, 2, width, LANES), lambda b, i: (b, 0, 0, 0)),
        ]
        sums = jax.ShapeDtypeStruct((batch, 2, width, LANES), jnp.float32)
        out_shape = [jax.ShapeDtypeStruct(qkv.shape, qkv.dtype), sums]
    return pl.pallas_call(
        partial(kernel, heads),
        grid=(batch, tokens // rows),
        in_specs=[flat, table, table, *kept] + [turned] * len(bars),
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=[pltpu.VMEM((wide, rows), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary" if bars else "parallel"),
            vmem_limit_bytes=64 * 2**20,
        ),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(qkv, *tables, columns, matrix, *bars)  # fmt: skip


def _chunks(wide: int, one: Callable[[Any], None]) -> None:
    """`one` for each 128 channels."""

    def turn(i: Any, _: None) -> None:
        one(pl.ds(pl.multiple_of(i * LANES, LANES), LANES))

    lax.fori_loop(0, wide // LANES, turn, None)


def _heads(heads: int, width: int, one: Callable[[Any, Any], None]) -> None:
    """`one` for each head and where its channels start."""

    def turn(head: Any, _: None) -> None:
        one(head, pl.multiple_of(head * width, 8))

    lax.fori_loop(0, heads, turn, None)


def _normed(x: Any) -> tuple[Any, Any]:
    rate = lax.rsqrt(jnp.square(x).mean(0, keepdims=True) + EPS)
    return x * rate, rate


def _dot(x: Any, y: Any) -> Any:
    exact = lax.Precision.HIGHEST if y.dtype == jnp.float32 else None
    return jnp.dot(x, y, precision=exact, preferred_element_type=jnp.float32)


def _wide(column: Any, rows: int) -> Any:
    return jnp.concatenate([column.astype(jnp.float32)] * (rows // LANES), 1)


def _forward_kernel(heads: int, *refs: Any) -> None:
    x_ref, cos_ref, sin_ref, scales_ref, matrix_ref, q_ref, k_ref, v_ref, flat = refs
    (width, rows), dtype = cos_ref.shape, x_ref.dtype

    def transpose(at: Any) -> None:
        flat[at] = x_ref[0, :, at].astype(jnp.float32).T

    _chunks(flat.shape[0], transpose)

    def one(head: Any, start: Any) -> None:
        for part, out_ref in enumerate((q_ref, k_ref)):
            x = flat[pl.ds(start + part * heads * width, width)]
            y = (_normed(x)[0] * _wide(scales_ref[part], rows)).astype(dtype)
            other = _dot(matrix_ref[...], y)
            turned = y.astype(jnp.float32) * cos_ref[...] + other * sin_ref[...]
            out_ref[0, head] = turned.astype(dtype)
        v_ref[0, head] = flat[pl.ds(start + 2 * heads * width, width)].astype(dtype)

    _heads(heads, width, one)


def _backward_kernel(heads: int, *refs: Any) -> None:
    """With n the normed channels of a head, r their rate, R the rotation:

    dy = R^T dout        dn = dy scale        dx = r (dn - n mean(n dn))
    """
    x_ref, cos_ref, sin_ref, scales_ref, matrix_ref, *bars = refs[:8]
    dx_ref, sums_ref, flat = refs[8:]
    (width, rows), dtype = cos_ref.shape, x_ref.dtype

    def transpose(at: Any) -> None:
        flat[at] = x_ref[0, :, at].astype(jnp.float32).T

    _chunks(2 * heads * width, transpose)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        sums_ref[...] = jnp.zeros(sums_ref.shape, jnp.float32)

    def one(head: Any, start: Any) -> None:
        for part, bar_ref in enumerate(bars[:2]):
            at = pl.ds(start + part * heads * width, width)
            normed, rate = _normed(flat[at])
            bar = bar_ref[0, head].astype(jnp.float32)
            other = _dot(matrix_ref[...], (bar * sin_ref[...]).astype(dtype))
            d_y = bar * cos_ref[...] - other
            steps = range(0, rows, LANES)
            sums_ref[0, part] += sum((d_y * normed)[:, i : i + LANES] for i in steps)
            d_n = d_y * _wide(scales_ref[part], rows)
            along = (normed * d_n).mean(0, keepdims=True)
            flat[at] = rate * (d_n - normed * along)
        at = pl.ds(start + 2 * heads * width, width)
        flat[at] = bars[2][0, head].astype(jnp.float32)

    _heads(heads, width, one)

    def back(at: Any) -> None:
        dx_ref[0, :, at] = flat[at].T.astype(dtype)

    _chunks(flat.shape[0], back)


def check() -> None:
    """The kernels, interpreted, against XLA's gradients of `plain`, in float32."""
    b, n, h, k = 2, 256, 16, 8
    keys = iter(jax.random.split(jax.random.key(0), 6))
    qkv = jax.random.normal(next(keys), (b, n, 3 * h * k))
    scales = 1 + jax.random.normal(next(keys), (2, k)) / 4
    angles = jax.random.normal(next(keys), (n, k // 2))
    bars = tuple(jax.random.normal(next(keys), (b, h, k, n)) for _ in range(3))
    operands = qkv, scales, jnp.cos(angles), jnp.sin(angles)
    found = _forward(*operands, interpret=True)
    back = _backward(operands, bars, interpret=True)
    for way in list(WAYS.values())[1:]:
        truth, vjp = jax.vjp(way, *operands)
        truths = (*truth, *vjp(bars)[:2])
        for mine, other in zip((*found, *back[:2]), truths, strict=True):
            assert jnp.allclose(mine, other, rtol=1e-4, atol=1e-3), abs(
                mine - other
            ).max()


def branch(prepare: Callable[..., Results], x: Any, kernel: Any, *rest: Any) -> Results:
    out = x.reshape(-1, x.shape[-1]) @ kernel
    return prepare(out.reshape(*x.shape[:-1], -1), *rest)


def gradients(run: Callable[..., Results]) -> Callable[..., Any]:
    def both(bars: Results, *operands: Any) -> Any:
        out, vjp = jax.vjp(run, *operands)
        return out, vjp(bars)[:3]

    return both


WAYS = {
    "fused": fused,
    "early": early,
    "product": partial(plain, by_product),
    "pairs": partial(plain, by_pairs),
}


def compared(prepare: Callable[..., Results], shape: Shape, place: Topology) -> str:
    """Milliseconds forward / with gradients (by XLA's estimates of its fusions)."""
    where = SingleDeviceSharding(place.devices[0])
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16, sharding=where)
    b, n, h, k = shape
    table = array((n, k // 2), dtype=jnp.float32)
    x, kernel, scales = array((b, n, h * k)), array((h * k, 3 * h * k)), array((2, k))
    operands, bars = (x, kernel, scales, table, table), (array((b, h, k, n)),) * 3
    run = partial(branch, prepare)
    both = (
        launches(run, place, *operands),
        launches(gradients(run), place, bars, *operands),
    )
    ms, guess = (
        " / ".join(f"{sum(getattr(x, by) for x in each):.3f}" for each in both)
        for by in ("ms", "guess")
    )
    return f"{ms} ({guess})"


def main() -> None:
    check()
    kind, *labels = sys.argv[1:]
    place = topology(SLICES[kind])
    print(f"| shape | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}", flush=True)
    for label in labels or SHAPES:
        print(f"| {label} |", end="", flush=True)
        for way in WAYS.values():
            print(f" {compared(way, SHAPES[label], place)} |", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
