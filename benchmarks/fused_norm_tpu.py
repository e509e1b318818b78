# SPDX-License-Identifier: Apache-2.0
"""Gate, residual, norm and modulation in one TPU kernel, or left to XLA?

    python benchmarks/fused_norm_tpu.py v5e                     # all shapes
    python benchmarks/fused_norm_tpu.py v5p "DiT-XL/2, 256 px"  # some

Needs libtpu (`pip install 'jdit[tpu]'`) and a CPU. What a time is: tpu_schedules.py.
The kernels are complete (`fused` is the reference with its gradients; `check` compares
them, interpreted), but not in the library: the table says why.

"op" is what the kernel does, alone: `x + gate y`, its layer norm, modulated. "branch"
is it between the products that surround it in a block (the last of an MLP, the first of
attention), where XLA fuses some of it with each product, but cannot fuse a kernel.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tpu_schedules import SLICES, launches  # first: it sets libtpu up

# isort: split
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import SingleDeviceSharding

from jdit.compile import Topology, topology
from jdit.norms import layer_norm, modulate


class Shape(NamedTuple):
    """Images, tokens and width."""

    batch: int
    tokens: int
    width: int


SHAPES = {
    "DiT-S/2, 256 px": Shape(8, 256, 384),
    "DiT-B/2, 256 px": Shape(8, 256, 768),
    "DiT-XL/2, 256 px": Shape(8, 256, 1152),
    "DiT-XL/2, 512 px": Shape(2, 1024, 1152),
    "SD3-medium": Shape(1, 4096, 1536),
    "Flux": Shape(1, 4608, 3072),
    "Wan 14B, an eighth of a video": Shape(1, 4096, 5120),
}
EPS = 1e-6
Results = tuple[Any, ...]


def plain(x: Any, y: Any, gate: Any, shift: Any, scale: Any) -> Results:
    """The stream after a branch, and the input of the next one."""
    x = x + gate[:, None] * y
    return x, modulate(layer_norm(x, EPS), shift, scale)


@jax.custom_vjp
def fused(x: Any, y: Any, gate: Any, shift: Any, scale: Any) -> Results:
    """`plain` in one kernel each way."""
    return _forward(x, y, gate, shift, scale)


def _forward(*operands: Any, interpret: bool = False) -> Results:
    x, y, *vectors = operands
    return _call(_forward_kernel, [x, y], vectors, 2, 0, interpret)


def _backward(saved: Results, bars: Results, interpret: bool = False) -> Results:
    out, y, gate, scale = saved
    found = _call(_backward_kernel, [out, y, *bars], [gate, scale], 2, 3, interpret)
    return *found[:2], *(bar[:, 0].astype(gate.dtype) for bar in found[2:])


fused.defvjp(
    lambda x, y, gate, shift, scale: (
        (found := _forward(x, y, gate, shift, scale)),
        (found[0], y, gate, scale),
    ),
    _backward,
)


def _call(
    kernel: Callable[..., None],
    wide: list[Any],
    vectors: list[Any],
    results: int,
    sums: int,
    interpret: bool,
) -> Results:
    """A kernel over blocks of tokens; `sums` are over them, of each image."""
    batch, tokens, width = wide[0].shape
    most = 2**19 // (len(wide) + results) * 2
    rows = max(
        r for r in range(16, tokens + 1, 16) if tokens % r == 0 and r * width <= most
    )
    together = next(r for r in (32, 16) if rows % r == 0 and r * width <= 2**16)
    one = pl.BlockSpec((1, rows, width), lambda b, i: (b, i, 0))
    of_image = pl.BlockSpec((1, 1, width), lambda b, i: (b, 0, 0))
    return pl.pallas_call(
        partial(kernel, together),
        grid=(batch, tokens // rows),
        in_specs=[one] * len(wide) + [of_image] * len(vectors),
        out_specs=[one] * results + [of_image] * sums,
        out_shape=[jax.ShapeDtypeStruct(wide[0].shape, wide[0].dtype)] * results
        + [jax.ShapeDtypeStruct((batch, 1, width), jnp.float32)] * sums,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary" if sums else "parallel"),
            vmem_limit_bytes=48 * 2**20,
        ),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*wide, *(x[:, None] for x in vectors))


def _normed(x: Any) -> tuple[Any, Any]:
    """Rows of mean 0 and variance 1, and what they were divided by, inverted."""
    x = x - x.mean(-1, keepdims=True)
    rate = lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPS)
    return x * rate, rate


def _each(rows: int, refs: Any, one: Callable[[Any], None]) -> None:
    """`one` for so many rows at a time: few enough to stay in registers."""

    def turn(i: Any, _: None) -> None:
        one((0, pl.ds(pl.multiple_of(i * rows, rows), rows)))

    lax.fori_loop(0, refs[0].shape[1] // rows, turn, None)


def _forward_kernel(rows: int, *refs: Any) -> None:
    x_ref, y_ref, gate_ref, shift_ref, scale_ref, out_ref, h_ref = refs

    def one(at: Any) -> None:
        gate, shift, scale = (
            ref[0].astype(jnp.float32) for ref in (gate_ref, shift_ref, scale_ref)
        )
        x = x_ref[at].astype(jnp.float32) + gate * y_ref[at].astype(jnp.float32)
        out_ref[at] = x.astype(out_ref.dtype)
        h_ref[at] = (_normed(x)[0] * (1 + scale) + shift).astype(h_ref.dtype)

    _each(rows, refs, one)


def _backward_kernel(rows: int, *refs: Any) -> None:
    """With n the normed rows, r their rate, and means over the width:

    dn = dh (1 + scale)        dx = dout + r (dn - mean(dn) - n mean(n dn))
    """
    out_ref, y_ref, d_out_ref, d_h_ref, gate_ref, scale_ref = refs[:6]
    dx_ref, dy_ref, *sums = refs[6:]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in sums:
            ref[...] = jnp.zeros(ref.shape, jnp.float32)

    def one(at: Any) -> None:
        gate, scale = (ref[0].astype(jnp.float32) for ref in (gate_ref, scale_ref))
        normed, rate = _normed(out_ref[at].astype(jnp.float32))
        d_h = d_h_ref[at].astype(jnp.float32)
        d_n = d_h * (1 + scale)
        along = (normed * d_n).mean(-1, keepdims=True)
        d_n = d_n - d_n.mean(-1, keepdims=True) - normed * along
        dx = d_out_ref[at].astype(jnp.float32) + rate * d_n
        dx_ref[at] = dx.astype(dx_ref.dtype)
        dy_ref[at] = (gate * dx).astype(dy_ref.dtype)
        parts = dx * y_ref[at].astype(jnp.float32), d_h, d_h * normed
        for ref, part in zip(sums, parts, strict=True):
            ref[0] += part.sum(0, keepdims=True)

    _each(rows, refs, one)


def check() -> None:
    """The kernels, interpreted, against XLA's gradients of `plain`, in float32."""
    keys = iter(jax.random.split(jax.random.key(0), 7))
    wide = [jax.random.normal(next(keys), (2, 96, 256)) for _ in range(4)]
    vectors = [jax.random.normal(next(keys), (2, 256)) for _ in range(3)]
    operands, bars = (*wide[:2], *vectors), tuple(wide[2:])
    truth, vjp = jax.vjp(plain, *operands)
    found = _forward(*operands, interpret=True)
    saved = found[0], wide[1], vectors[0], vectors[2]
    back = _backward(saved, bars, interpret=True)
    for mine, other in zip((*found, *back), (*truth, *vjp(bars)), strict=True):
        assert jnp.allclose(mine, other, atol=2e-4), abs(mine - other).max()


def _product(x: Any, kernel: Any) -> Any:
    out = x.reshape(-1, x.shape[-1]) @ kernel
    return out.reshape(*x.shape[:-1], -1)


def branch(
    op: Callable[..., Results],
    hidden: Any,
    last: Any,
    first: Any,
    x: Any,
    *vectors: Any,
) -> Results:
    """The end of one branch and the start of the next."""
    x, h = op(x, _product(hidden, last), *vectors)
    return x, _product(h, first)


def gradients(run: Callable[..., Results]) -> Callable[..., Any]:
    def both(bars: Results, *operands: Any) -> Any:
        out, vjp = jax.vjp(run, *operands)
        return out, vjp(bars)

    return both


def compared(shape: Shape, place: Topology) -> list[str]:
    """Milliseconds: the kernels' / XLA's (by its own estimate)."""
    where = SingleDeviceSharding(place.devices[0])
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16, sharding=where)
    b, n, d = shape
    x, vectors = array((b, n, d)), [array((b, d))] * 3
    products = [array((b, n, 4 * d)), array((4 * d, d)), array((d, 3 * d))]

    def times(op: Callable[..., Results]) -> list[tuple[float, float]]:
        whole = partial(branch, op)
        programs: list[tuple[Any, ...]] = [
            (op, x, x, *vectors),
            (gradients(op), (x, x), x, x, *vectors),
            (whole, *products, x, *vectors),
            (gradients(whole), (x, array((b, n, 3 * d))), *products, x, *vectors),
        ]
        found = (launches(run, place, *operands) for run, *operands in programs)
        return [(sum(k.ms for k in one), sum(k.guess for k in one)) for one in found]

    pairs = zip(times(fused), times(plain), strict=True)
    return [
        f"{mine:.3f} / {xla:.3f} ({guess:.3f})" for (mine, _), (xla, guess) in pairs
    ]


def main() -> None:
    check()
    kind, *labels = sys.argv[1:]
    place = topology(SLICES[kind])
    print("| shape | op | with gradients | branch | with gradients |")
    print("|---|---|---|---|---|", flush=True)
    for label in labels or SHAPES:
        row = [label, *compared(SHAPES[label], place)]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
