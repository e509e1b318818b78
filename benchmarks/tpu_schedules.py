# SPDX-License-Identifier: Apache-2.0
"""What a program costs on a TPU by its compiler's schedules, without a TPU.

Import it before JAX starts: it asks libtpu (`pip install 'jdit[tpu]'`) to write the
schedules down. A Pallas kernel carries no estimate of its time: what XLA prints for one
is the count of operations that its author wrote down, divided by the chip's rate. XLA's
fusions carry one, which agrees with their schedules for matrix products, but is six to
ten times as much for sums over rows and elementwise work. So both are timed alike, by
whichever takes longest of

    bundles   of the final schedule, one a cycle, loops as often as they run and
              branches as if they were taken; of one core, where a chip has two (v5p)
    products  eight cycles for each eight rows that a matrix unit gives; bundles do not
              show where these wait for it
    memory    operands and results in main memory, padded as they lie, each moved once

Copies that run beside other work take no time, but their bytes are counted. Not in it:
waiting for memory inside a kernel, and what lies between kernels.
"""

import os
import re
import shutil
import tempfile
from atexit import register
from collections import Counter
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

SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1"}

LINE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(L[HBE]|P[BF]|CT)?\s*:\s*((?:>\s*)*)\{")
STAGE = re.compile(r"iteration index, stage = (\d+)")
PRODUCT = re.compile(r"vpop\.f32\.mrf\.mxu(\d)")
EXIT = re.compile(r"scmp\.\w+\.s32\.totalorder %\w+, (\d+) /\* loop exit test")


class Launch(NamedTuple):
    """A kernel or fusion of a program: all its runs, and bytes of main memory.

    ms: milliseconds by the schedule. guess: by XLA's own estimate, for its fusions.
    """

    name: str
    ms: float
    guess: float
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
    launched = kernels(parse(compiled.as_text()), 1)
    # Of equal operations the compiler schedules one; they have one estimate.
    counts = {
        (kernel.op, kernel.cycles): cycles(schedules[kernel.name].read_text())
        for kernel in launched
        if kernel.name in schedules and kernel.cycles
    }
    found = []
    for kernel in launched:
        pallas = kernel.op == "custom-call"
        if pallas:
            count = float(cycles(schedules[kernel.name].read_text()))
        else:
            count = counts.get((kernel.op, kernel.cycles), kernel.cycles)
        moved = 0 if kernel.copy else kernel.bytes / rate
        ms = 1e3 * kernel.times * max(count / clock, moved)
        guess = 1e3 * kernel.times * max(kernel.cycles / clock, moved)
        size = kernel.times * kernel.bytes
        found.append(Launch(kernel.name, ms, ms if pallas else guess, size, pallas))
    for path in DUMP.iterdir():
        path.unlink()
    return found


def cycles(text: str) -> int:
    """What a schedule takes: its bundles or its products, loops multiplied out."""
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
            inside = [
                row[2] for row in rows[start : stop + 2] if row[1] in (depth, depth - 1)
            ]
            ends = (found for found in map(EXIT.search, inside) if found)
            trips = next((int(found[1]) for found in ends), 1)
            # A pipeline runs longer than its grid, to fill and to drain.
            stages = [int(n) for text in inside for n in STAGE.findall(text)]
            trips = max(1, trips - max(stages, default=0))
            for at in range(start, stop):
                weight[at] *= trips
    units: Counter[str] = Counter()
    for times, (*_, text) in zip(weight, rows, strict=True):
        for unit in PRODUCT.findall(text):
            units[unit] += times
    return max(sum(weight), 8 * max(units.values(), default=0))


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
