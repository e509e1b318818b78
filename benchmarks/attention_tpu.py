# SPDX-License-Identifier: Apache-2.0
"""Attention as the TPU's compiler schedules it, without a TPU.

    python benchmarks/attention_tpu.py v5e                   # all of arg_specs.py
    python benchmarks/attention_tpu.py v5p "packed images"   # some

Needs libtpu (`pip install 'jdit[tpu]'`) and a CPU. A kernel carries no estimate of its
time: what XLA prints for one is the count of operations that its author wrote down,
divided by the chip's rate. But a TensorCore does in each cycle what one bundle of the
final schedule says, in order, and the compiler can write these schedules out. So we
count bundles, those of loops as often as they run, branches as if they were taken. The
time of a kernel is that of its bundles or that of its operands and results, each moved
once, padded as they lie in main memory, whichever is longer. XLA's own fusions carry
the compiler's estimate in cycles, which knows of both.

Columns, forward + backward in milliseconds: our kernels; the kernels inside JAX
(jax.experimental.pallas.ops.tpu.flash_attention) with their own block sizes (128), and
with the better of 256 and 512; and the reference, which XLA makes fusions of and whose
backward pass computes the softmax again. All as they stand in a program of their own.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

DUMP = Path(tempfile.mkdtemp(prefix="bundles"))
os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={DUMP} --xla_jf_dump_llo_text=true --xla_jf_dump_hlo_text=false"
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental.pallas.ops.tpu import flash_attention as shipped  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from jdit.compile import Topology, topology  # noqa: E402
from jdit.compile.hlo import parse  # noqa: E402
from jdit.compile.kernels import kernels  # noqa: E402
from jdit.ops.attention import pallas_tpu, reference  # noqa: E402
from jdit.ops.attention.arg_specs import SPECS, Spec  # noqa: E402

SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}

LINE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(L[HBE]|P[BF]|CT)?\s*:\s*((?:>\s*)*)\{")
EXIT = re.compile(r"scmp\.\w+\.s32\.totalorder %\w+, (\d+) /\* loop exit test")


def bundles(text: str) -> int:
    """The bundles that a program issues, loops multiplied out."""
    rows: list[tuple[str | None, int, str]] = []  # label, depth, text
    for line in text.splitlines():
        found = LINE.match(line)
        if found:
            depth = found[2].count(">")
            if not depth and rows and re.search(r":\s*\{\}", line):
                depth = rows[-1][1]  # an empty bundle does not show its depth
            rows.append((found[1], depth, line))
        elif rows:
            rows[-1] = (*rows[-1][:2], rows[-1][2] + line)
    weight = [1] * len(rows)
    for depth in range(1, max(row[1] for row in rows) + 1):
        for start, stop in _loops(rows, depth):
            ends = (
                EXIT.search(row[2])
                for row in rows[start : stop + 2]
                if row[1] in (depth, depth - 1)
            )
            trips = next((int(found[1]) for found in ends if found), 1)
            for at in range(start, stop):
                weight[at] *= trips
    return sum(weight)


def _loops(rows: list[Any], depth: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(rows):
        if rows[at][1] < depth:
            at += 1
            continue
        start = at
        at += 1
        while at < len(rows) and rows[at][:2] != ("LB", depth):
            if all(row[1] < depth for row in rows[at : at + 8]):
                break  # a few bundles of a loop do not show their depth
            at += 1
        yield start, at


def milliseconds(run: Callable[..., Any], place: Topology, *arguments: Any) -> float:
    """Of a function's kernels on one chip, as scheduled."""
    compiled = jax.jit(run).lower(*arguments).compile()
    counts: dict[str, int] = {}
    for path in DUMP.glob("*-final_bundles.txt"):
        named = re.fullmatch(r"\d+-(.+)-\d+-final_bundles.txt", path.name)
        if named and "schedule-analysis" not in path.name:
            counts[named[1]] = bundles(path.read_text())
    for path in DUMP.iterdir():
        path.unlink()
    assert place.chip is not None
    seconds = 0.0
    for kernel in kernels(parse(compiled.as_text()), 1):
        cycles = kernel.cycles
        if kernel.op == "custom-call":
            cycles = counts.get(kernel.name, 0)
        moved = 0 if kernel.copy else kernel.bytes / place.chip.hbm_rate
        seconds += kernel.times * max(cycles / place.chip.clock, moved)
    return 1e3 * seconds


class Case(NamedTuple):
    """The arguments of forward and backward, and their masks by name."""

    operands: tuple[Any, ...]
    results: tuple[Any, ...]
    masks: dict[str, Any]


def case(spec: Spec, device: Any, dtype: Any = jnp.bfloat16) -> Case:
    """As `transformable.Kernels` takes them, but widths before tokens."""
    b, h, n, m, width = spec[:5]
    g = spec.groups or h
    shape = partial(
        jax.ShapeDtypeStruct, dtype=dtype, sharding=SingleDeviceSharding(device)
    )
    q, k = shape((b, g, h // g, width, n)), shape((b, g, width, m))
    masks: dict[str, Any] = {}
    if spec.masked:
        masks["mask"] = shape((b, m), dtype=jnp.bool_)
    if spec.segmented:
        masks["segments"] = tuple(shape((b, x), dtype=jnp.int32) for x in (n, m))
    lse = shape((b, g, h // g, n), dtype=jnp.float32)
    return Case((q, k, k), (q, lse, q, lse), masks)


def _turned(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.swapaxes(-1, -2) if x.ndim > 3 else x, tree)


Times = tuple[float, float]


def ours(spec: Spec, place: Topology) -> Times:
    """Forward and backward."""
    found = case(spec, place.devices[0])

    def forward(q: Any, k: Any, v: Any, masks: Any) -> Any:
        out, lse = pallas_tpu.forward(*_turned((q, k, v)), masks)
        return _turned(out), lse

    def backward(q: Any, k: Any, v: Any, masks: Any, *rest: Any) -> Any:
        out, lse, d_out, d_lse = rest
        given = *_turned((q, k, v)), masks, _turned(out), lse, _turned(d_out), d_lse
        return _turned(pallas_tpu.backward(*given))

    arguments = *found.operands, found.masks
    return (
        milliseconds(forward, place, *arguments),
        milliseconds(backward, place, *arguments, *found.results),
    )


def _both(attend: Callable[..., Any], spec: Spec, place: Topology) -> Times:
    """Forward, and what gradients cost beyond it. All heads have keys of their own."""
    b, h, n, m, width = spec[:5]
    where = SingleDeviceSharding(place.devices[0])
    sizes = [(b, h, n, width), (b, h, m, width), (b, h, m, width), (b, h, n, width)]
    arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=where) for s in sizes]
    masks = case(spec, place.devices[0]).masks

    def gradients(q: Any, k: Any, v: Any, bar: Any, masks: Any) -> Any:
        out, vjp = jax.vjp(lambda *a: attend(*a, masks), q, k, v)
        return out, vjp(bar)

    forward = milliseconds(attend, place, *arrays[:3], masks)
    return forward, milliseconds(gradients, place, *arrays, masks) - forward


def xla(spec: Spec, place: Topology) -> Times:
    """The softmax computed again in the backward pass, as jdit does without kernels."""

    def attend(q: Any, k: Any, v: Any, masks: Any) -> Any:
        return reference.attention(q, k, v, masks.get("mask"), masks.get("segments"))

    return _both(jax.checkpoint(attend), spec, place)


def flash(spec: Spec, place: Topology, block: int) -> Times | None:
    """The kernels that JAX ships; None where they refuse."""
    blocks = shipped.BlockSizes(
        block, block, block, 1, block, block, block, block, block, block, block
    )

    def attend(q: Any, k: Any, v: Any, masks: Any) -> Any:
        ids = None
        if "segments" in masks:
            ids = shipped.SegmentIds(*masks["segments"])
        elif "mask" in masks:
            ones = jnp.ones((q.shape[0], q.shape[2]), jnp.int32)
            ids = shipped.SegmentIds(ones, masks["mask"].astype(jnp.int32))
        scale = spec.width**-0.5
        return shipped.flash_attention(
            q, k, v, segment_ids=ids, sm_scale=scale, block_sizes=blocks
        )

    try:
        return _both(attend, spec, place)
    except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def main() -> None:
    kind, *labels = sys.argv[1:]
    place = topology(SLICES[kind])
    print("| shape | ours | shipped, 128 | shipped, best | XLA |")
    print("|---|---|---|---|---|", flush=True)
    for label in labels or SPECS:
        spec = SPECS[label]
        sizes = [x for x in (256, 512) if not (spec.queries % x or spec.keys % x)]
        tuned = [x for x in (flash(spec, place, size) for size in sizes) if x]
        best = min(tuned, key=sum) if tuned else None
        found = [ours(spec, place), flash(spec, place, 128), best, xla(spec, place)]
        cells = (
            "refuses" if x is None else " + ".join(f"{part:.3f}" for part in x)
            for x in found
        )
        print(f"| {label} | {' | '.join(cells)} |", flush=True)
    shutil.rmtree(DUMP)


if __name__ == "__main__":
    main()
