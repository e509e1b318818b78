# SPDX-License-Identifier: Apache-2.0
"""What a program costs on a TPU by its compiler's schedules, without a TPU.

Import it before JAX starts: it asks libtpu (`pip install 'jdit[tpu]'`) to write the
schedules down. A Pallas kernel carries no estimate of its time: what XLA prints for one
is the count of operations that its author wrote down, divided by the chip's rate. But
a TensorCore does in each cycle what one bundle of the final schedule says, in order.
So we count bundles, those of loops as often as they run, branches as if they were
taken. On chips of two cores (v4, v5p) the loops are those of one core.

The time of a kernel is that of its bundles or that of its operands and results, each
moved once, padded as they lie in main memory, whichever is longer. XLA's own fusions
carry the compiler's estimate in cycles, which knows of both. Copies that run beside
other work take no time here, but their bytes are counted. Not in it: waiting for memory
inside a kernel, and what lies between kernels.
"""

import os
import re
import shutil
import tempfile
from atexit import register
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

DUMP = Path(tempfile.mkdtemp(prefix="bundles"))
register(shutil.rmtree, DUMP, ignore_errors=True)
os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={DUMP} --xla_jf_dump_llo_text=true --xla_jf_dump_hlo_text=false "
    "--xla_jf_dump_llo_pass_label_regex=final_bundles"
)

import jax  # noqa: E402

from jdit.compile import Topology  # noqa: E402
from jdit.compile.hlo import parse  # noqa: E402
from jdit.compile.kernels import kernels  # noqa: E402

SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}

LINE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(L[HBE]|P[BF]|CT)?\s*:\s*((?:>\s*)*)\{")
EXIT = re.compile(r"scmp\.\w+\.s32\.totalorder %\w+, (\d+) /\* loop exit test")


class Launch(NamedTuple):
    """A kernel or fusion of a program: all its runs in milliseconds, and main memory
    in bytes. ours: whether it is Pallas's, not XLA's."""

    name: str
    ms: float
    bytes: float
    pallas: bool


def launches(run: Callable[..., Any], place: Topology, *arguments: Any) -> list[Launch]:
    """All that a function launches on one chip."""
    assert place.chip is not None
    rate, clock = place.chip.hbm_rate, place.chip.clock
    compiled = jax.jit(run).lower(*arguments).compile()
    schedules = {}
    for path in DUMP.iterdir():
        named = re.fullmatch(r"\d+-(.+)-\d+-final_bundles.txt", path.name)
        if named:
            schedules[named[1]] = path
    found = []
    for kernel in kernels(parse(compiled.as_text()), 1):
        pallas = kernel.op == "custom-call"
        cycles = kernel.cycles
        if pallas:
            cycles = bundles(schedules[kernel.name].read_text())
        moved = 0 if kernel.copy else kernel.bytes / rate
        milliseconds = 1e3 * kernel.times * max(cycles / clock, moved)
        size = kernel.times * kernel.bytes
        found.append(Launch(kernel.name, milliseconds, size, pallas))
    for path in DUMP.iterdir():
        path.unlink()
    return found


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
