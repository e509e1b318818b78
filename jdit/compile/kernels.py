# SPDX-License-Identifier: Apache-2.0
"""What a compiled program computes, moves and sends, with every pass of its loops."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from jdit.compile.groups import Group, group
from jdit.compile.hlo import Computation, Instruction, Program, Shape, trips

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier", "add-dependency", "domain",
}  # fmt: skip
_COPIES = {"copy-start", "slice-start", "dynamic-slice-start"}
_HOST = {"send", "recv"}
_NOTHING = ("ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding")
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclass(frozen=True)
class Collective:
    """One exchange between chips.

    bytes: what it is about, of one chip: the whole array for all-gather, the chip's own
    before it for the others. sent: what a chip sends where rings do it (Thakur et al.,
    2005): `2 (n - 1) / n` of it for all-reduce among n, `(n - 1) / n` for gather,
    scatter and all-to-all, all of it for a permutation. slices: it is among slices, by
    way of the hosts; the group's size is their number.
    """

    kind: str
    bytes: float
    group: Group
    slices: bool = False

    @property
    def sent(self) -> float:
        size = self.group.size
        if size == 1 and self.kind != "collective-permute":
            return 0.0
        share = {"all-reduce": 2.0 * (size - 1) / size, "collective-permute": 1.0}
        return self.bytes * share.get(self.kind, (size - 1) / size)


@dataclass(frozen=True)
class Kernel:
    """One launched operation and how often it runs.

    flops: of its matrix products. bytes: it reads and writes in main memory. cycles:
    the compiler's estimate, 0 where it gives none. copy: runs beside others. guessed:
    inside a loop of unknown length, which is counted once.
    """

    name: str
    op: str
    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0
    copy: bool = False
    collectives: tuple[Collective, ...] = ()
    times: int = 1
    guessed: bool = False


def kernels(program: Program, devices: int) -> list[Kernel]:
    """All that a program launches on one chip of `devices`, loops multiplied out.

    Of a conditional the branch with the most FLOPs, then bytes, is taken.
    """
    return _Reader(program, devices).walk(program.entry)


class _Reader:
    def __init__(self, program: Program, devices: int) -> None:
        self.program, self.devices = program, devices

    def walk(self, name: str) -> list[Kernel]:
        found: list[Kernel] = []
        seen: set[str] = set()
        for instruction in self.program[name]:
            called = instruction.called()
            if instruction.op == "while":
                count = trips(self.program, instruction)
                found += [
                    replace(
                        inner,
                        times=inner.times * (1 if count is None else count),
                        guessed=inner.guessed or count is None,
                    )
                    for inner in self.walk(called["body"])
                ]
            elif instruction.op == "conditional":
                choices = [self.walk(branch) for branch in instruction.branches()]
                choices.sort(key=_weight)
                found += choices[-1] if choices else []
            elif instruction.op in ("call", "async-start"):
                inner_name = called.get("to_apply") or called.get("calls")
                found += self.walk(inner_name) if inner_name else []
            elif kernel := self.kernel(instruction, seen):
                found.append(kernel)
        return found

    def kernel(self, instruction: Instruction, seen: set[str]) -> Kernel | None:
        """None for what costs nothing. `seen`: channels already counted around it."""
        op = instruction.op
        if op in _FREE or op.endswith("-done") or op == "async-update":
            return None
        target = re.search(r'custom_call_target="([^"]+)"', instruction.attributes)
        if target and target[1] in _NOTHING:
            return None
        outside = self.program[instruction.inside]
        cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
        return Kernel(
            name=instruction.name,
            op=op,
            flops=self.flops(instruction),
            bytes=self.bytes(instruction, outside),
            cycles=float(cycles[1]) if cycles else 0.0,
            copy=op in _COPIES | _HOST,
            collectives=tuple(self.collectives(instruction, seen)),
        )

    def inner(self, instruction: Instruction) -> Computation | None:
        name = instruction.called().get("calls")
        if instruction.op != "fusion" or name is None:
            return None
        return self.program[name]

    def flops(self, instruction: Instruction) -> float:
        inner = self.inner(instruction)
        if inner is not None:
            return sum(map(self.flops, inner))
        computation = self.program[instruction.inside]
        if instruction.op == "dot":
            return _dot(instruction, computation)
        if instruction.op == "convolution":
            return _convolution(instruction, computation)
        if instruction.op == "custom-call":
            return _custom(instruction, computation)
        return 0.0

    def collectives(
        self, instruction: Instruction, seen: set[str]
    ) -> Iterator[Collective]:
        """Those of an instruction. One that is spread over several fusions, to run
        beside what they compute, has one channel and is counted once."""
        inner = self.inner(instruction)
        if inner is not None:
            for one in inner:
                if one.op.removesuffix("-start") in COLLECTIVES:
                    channel = re.search(r"channel_id=(\d+)", one.attributes)
                    if channel and "chain_id" in one.attributes:
                        if channel[1] in seen:
                            continue
                        seen.add(channel[1])
                yield from self.collectives(one, seen)
            return
        outside = self.program[instruction.inside]
        kind = instruction.op.removesuffix("-start")
        if kind == "send" and (among_slices := _among_slices(instruction, outside)):
            yield among_slices
        if kind not in COLLECTIVES:
            return
        size = float(sum(s.bytes for s in _operands(instruction, outside)))
        among = group(instruction.attributes, self.devices)
        if kind == "all-gather":
            size *= among.size
        yield Collective(kind, size, among)

    def bytes(self, instruction: Instruction, outside: Computation) -> float:
        """Bytes in main memory: operands read, results written, slices as slices."""
        op, result = instruction.op, instruction.result
        operands = [outside.body.get(name) for name in instruction.operands]
        if op in _COPIES:  # (from, to, ...) or (to, from, ...)
            return float(result[1].padded * sum(not s.space for s in result[:2]))
        if op in _HOST:
            return _main(result[:1])
        if op in _SLICES:
            return 2 * _main(result)
        if op in ("dynamic-update-slice", "scatter"):
            update = operands[1 if op == "dynamic-update-slice" else -1]
            return 2 * _main(update.result) if update else 0.0
        inner = self.inner(instruction)
        read = 0.0
        for index, operand in enumerate(operands):
            if operand is None:
                continue
            used = operand.result
            if inner is not None and index < len(inner.parameters):
                part = self.used(inner, inner.parameters[index])
                if part is not None:
                    read += min(part, _main(used)) if not used[0].space else 0.0
                    continue
            read += _main(used)
        if inner is None:
            return read + _main(result)
        parts = self.written(inner)
        for place, part in zip(result, parts, strict=False):
            if not place.space:
                read += place.padded if part is None else part
        return read

    def used(self, inner: Computation, parameter: Instruction) -> float | None:
        """Bytes read of a fusion's operand where it only takes slices of it, else None.

        An array that a fusion updates in place is not read. Fusions hold fusions.
        """
        names, total = {parameter.name}, 0.0
        for user in inner:
            if user.op == "parameter" or not names & set(user.operands):
                continue
            nested = self.inner(user)
            if user.op == "bitcast":
                names.add(user.name)
            elif nested is not None:
                for at, name in enumerate(user.operands):
                    if name in names:
                        part = self.used(nested, nested.parameters[at])
                        if part is None:
                            return None
                        total += part
            elif user.op in _SLICES and user.operands[0] in names:
                total += float(sum(s.padded for s in user.result))
            elif not (user.op == "dynamic-update-slice" and user.operands[0] in names):
                return None
        return total

    def written(self, inner: Computation) -> list[float | None]:
        """For each result of a fusion the bytes of what it updates in place, or None
        where all of it is written."""
        root = inner.root
        ends = [inner.body.get(n) for n in root.operands] if root.op == "tuple" else []
        found: list[float | None] = []
        for end in ends or [root]:
            while end is not None and end.op == "bitcast":
                end = inner.body.get(end.operands[0])
            nested = self.inner(end) if end is not None else None
            if end is not None and end.op == "dynamic-update-slice":
                update = inner.body.get(end.operands[1])
                size = sum(s.padded for s in update.result) if update else 0
                found.append(float(size))
            elif nested is not None and end is not None and len(end.result) == 1:
                found += self.written(nested)
            else:
                found.append(None)
        return found


def _weight(branch: list[Kernel]) -> tuple[float, float]:
    return (
        sum(k.flops * k.times for k in branch),
        sum(k.bytes * k.times for k in branch),
    )


def _main(arrays: tuple[Shape, ...]) -> float:
    return float(sum(s.padded for s in arrays if not s.space))


def _operands(instruction: Instruction, outside: Computation) -> list[Shape]:
    found = [outside.body.get(name) for name in instruction.operands]
    return [shape for one in found if one is not None for shape in one.result]


def _dot(instruction: Instruction, computation: Computation) -> float:
    """`2 x results x length of the sum`."""
    left = computation.body[instruction.operands[0]].result[0]
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    summed = [int(n) for n in axes[1].split(",") if n] if axes else []
    return 2.0 * prod(instruction.result[0].dims) * prod(left.dims[n] for n in summed)


def _convolution(instruction: Instruction, computation: Computation) -> float:
    """Two for each product that falls on data, not on padding or holes.

    TPUs do matrix products, also batched ones, as convolutions whose windows step over
    the batch: of the products such a window spans only those on data are real.
    """
    left, right = (computation.body[n].result[0] for n in instruction.operands[:2])
    out = instruction.result[0]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        return 0.0
    of_left, of_right, of_out = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    given = dict(part.split("=") for part in window[1].split()) if window else {}

    def number(name: str, axis: int, default: int) -> int:
        return int(given[name].split("x")[axis]) if name in given else default

    pairs = 1.0
    for axis in range(sum(c.isdigit() for c in of_out)):
        size = left.dims[of_left.index(str(axis))]
        stride, spread = number("stride", axis, 1), number("rhs_dilate", axis, 1)
        holes = number("lhs_dilate", axis, 1)
        pad = given["pad"].split("x")[axis] if "pad" in given else "0_0"
        at = (
            np.arange(out.dims[of_out.index(str(axis))])[:, None] * stride
            + np.arange(right.dims[of_right.index(str(axis))])[None] * spread
            - int(pad.split("_")[0])
        )
        pairs *= np.sum((at >= 0) & (at <= (size - 1) * holes) & (at % holes == 0))
    grouped = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    batch = left.dims[of_left.index("b")] / (int(grouped[1]) if grouped else 1)
    features = right.dims[of_right.index("i")] * right.dims[of_right.index("o")]
    return 2.0 * float(pairs) * batch * features


def _custom(instruction: Instruction, computation: Computation) -> float:
    """What a kernel says of itself, or a library's matrix product."""
    said = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.attributes)
    if said:
        return float(said[1])
    axes = re.search(
        r'"lhs_contracting_dimensions":(\[[^\]]*\])', instruction.attributes
    )
    if not axes:
        return 0.0
    left = computation.body[instruction.operands[0]].result[0]
    summed = [int(n) for n in json.loads(axes[1])]
    return 2.0 * prod(instruction.result[0].dims) * prod(left.dims[n] for n in summed)


def _among_slices(send: Instruction, outside: Computation) -> Collective | None:
    """What the hosts exchange with those of other slices, if a send is that."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.attributes)
    among = re.search(r'_xla_megascale_target="\{([\d,]+)\}', send.attributes)
    if not found:
        return None
    kind = found[1].lower().replace("_", "-")
    size = float(_operands(send, outside)[0].bytes)
    group = Group(len(among[1].split(",")) if among else 2, ())
    if kind == "all-gather":
        size *= group.size
    return Collective(kind, size, group, slices=True)
