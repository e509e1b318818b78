# SPDX-License-Identifier: Apache-2.0
"""Reading the text of a compiled program: instructions, shapes, and trip counts.

XLA's own totals count what a loop holds once. The text says how often loops run, and
so what a whole step computes, moves and sends can be counted from it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
_LEAF = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)


class Shape(NamedTuple):
    """One array: element type, dimensions, and where and how it lies.

    tile: the innermost block the layout is padded to, over its `order` (minor first).
    space: 0 is the device's main memory, others are on the chip or on the host.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def bits(self) -> int:
        """Of one element."""
        if self.dtype in _BITS:
            return _BITS[self.dtype]
        found = re.match(r"[a-z]+(\d+)", self.dtype)
        return int(found[1]) if found else 0

    @property
    def bytes(self) -> int:
        """Of the values alone."""
        return prod(self.dims) * self.bits // 8

    @property
    def padded(self) -> int:
        """Bytes as they lie in memory, in whole tiles."""
        dims = list(self.dims)
        for axis, size in zip(self.order, reversed(self.tile), strict=False):
            dims[axis] = -(-dims[axis] // size) * size
        return prod(dims) * self.bits // 8


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, in order: one, or those of a tuple."""
    found = []
    for dtype, dims, layout in _LEAF.findall(text):
        order, _, rest = layout.partition(":")
        tile = re.search(r"T\(([\d,]+)\)", rest)
        space = re.search(r"\bS\((\d+)\)", rest)
        found.append(
            Shape(
                dtype,
                tuple(int(n.lstrip("<=")) for n in dims.split(",") if n),
                tuple(int(n) for n in order.split(",") if n.strip().isdigit()),
                tuple(int(n) for n in tile[1].split(",")) if tile else (),
                int(space[1]) if space else 0,
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Instruction:
    """One line: its result, operation, operands by name, and the rest as text."""

    name: str
    op: str
    result: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool = False
    inside: str = ""

    def called(self) -> dict[str, str]:
        """Computations it calls, by their part: body, condition, calls, ..."""
        return dict(_CALLED.findall(self.attributes))

    def branches(self) -> tuple[str, ...]:
        """The computations a conditional chooses from."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return tuple(part.strip().lstrip("%") for part in listed[1].split(","))
        called = self.called()
        names = ("true_computation", "false_computation")
        return tuple(called[name] for name in names if name in called)


@dataclass
class Computation:
    """Instructions by name, in order."""

    name: str
    body: dict[str, Instruction] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.body.values())

    @property
    def root(self) -> Instruction:
        return next((i for i in self if i.root), list(self)[-1])

    @property
    def parameters(self) -> list[Instruction]:
        """In the order of their numbers."""
        found = [i for i in self if i.op == "parameter"]
        return sorted(found, key=lambda i: int(i.operands[0]))


@dataclass(frozen=True)
class Program:
    """A compiled module: its computations by name, and where it starts."""

    computations: Mapping[str, Computation]
    entry: str

    def __getitem__(self, name: str) -> Computation:
        return self.computations[name]


def _balanced(text: str, start: int) -> int:
    """The index after the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if not depth:
            return at + 1
    raise ValueError(f"brackets do not close in {text[:60]!r}")


def _split(text: str) -> list[str]:
    """A list at its outer commas."""
    parts, depth, last = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and not depth:
            parts.append(text[last:at])
            last = at + 1
    return [part.strip() for part in (*parts, text[last:]) if part.strip()]


def _instruction(line: str, inside: str) -> Instruction | None:
    start = _NAME.match(line)
    if not start:
        return None
    rest = line[start.end() :]
    end = _balanced(rest, 0) if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = _balanced(rest, opened)
    operands = _split(rest[opened + 1 : closed - 1])
    return Instruction(
        name=start[2],
        op=rest[:opened],
        result=shapes(kind),
        operands=tuple(part.split()[-1].lstrip("%") for part in operands),
        attributes=rest[closed:],
        root=bool(start[1]),
        inside=inside,
    )


def parse(text: str) -> Program:
    """A program from its text, `compiled.as_text()`; ValueError if it has no entry."""
    computations: dict[str, Computation] = {}
    entry, now = "", None
    for raw in text.splitlines():
        line = re.sub(r"/\*.*?\*/", "", raw) if "/*" in raw else raw
        if not line.startswith(" "):
            head = _HEAD.match(line)
            now = None
            if head:
                now = computations[head[2]] = Computation(head[2])
                entry = head[2] if head[1] else entry
        elif now is not None and (found := _instruction(line, now.name)):
            now.body[found.name] = found
    if not entry:
        raise ValueError("text holds no ENTRY computation: give compiled.as_text()")
    return Program(computations, entry)


def trips(program: Program, loop: Instruction) -> int | None:
    """How often a while loop runs, or None where the program does not tell.

    Some backends write the count down. Elsewhere it is read from the condition: a
    carried counter against a constant, which starts at a constant and which the body
    raises by a constant.
    """
    known = re.search(r'known_trip_count[^}]*?"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    called = loop.called()
    condition, body = program[called["condition"]], program[called["body"]]
    test, inner = condition.root, condition
    arguments: dict[str, str] = {}
    if test.op == "fusion" and "calls" in test.called():
        inner = program[test.called()["calls"]]
        names = [p.name for p in inner.parameters]
        arguments = dict(zip(names, test.operands, strict=False))
        test = inner.root
    direction = re.search(r"direction=(LT|LE|GT|GE)", test.attributes)
    if test.op != "compare" or not direction:
        return None

    def carried(name: str) -> tuple[int | None, int | None]:
        """(slot of the carry, constant) a side of the comparison stands for."""
        name = arguments.get(name, name)
        found = condition.body.get(name) or inner.body.get(name)
        if found is None:
            return None, None
        if (slot := _slot(found)) is not None:
            start = _constant(program[loop.inside], loop, slot)
            return slot, start
        return None, _value(inner if name in inner.body else condition, name)

    (slot, first), (other, last) = map(carried, test.operands)
    if slot is None or first is None or last is None:
        return None
    step = _step(body, slot) or 1
    if direction[1] in ("GT", "GE"):
        first, last, step = last, first, abs(step)
    span = last - first + (direction[1] in ("LE", "GE"))
    return max(0, -(-span // abs(step)))


def _slot(instruction: Instruction) -> int | None:
    if instruction.op != "get-tuple-element":
        return None
    index = re.search(r"index=(\d+)", instruction.attributes)
    return int(index[1]) if index else None


def _value(computation: Computation, name: str) -> int | None:
    """The integer an instruction holds, followed through copies."""
    for _ in range(8):
        found = computation.body.get(name)
        if found is None:
            return None
        if found.op == "constant":
            value = found.operands[0] if found.operands else ""
            return int(value) if value.lstrip("-").isdigit() else None
        if found.op not in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
            return None
        name = found.operands[0]
    return None


def _constant(outside: Computation, loop: Instruction, slot: int) -> int | None:
    """What a slot of a loop's carry holds before the loop, if it is a constant."""
    carry = outside.body.get(loop.operands[0])
    if carry is None or carry.op != "tuple":
        return None
    return _value(outside, carry.operands[slot])


def _step(body: Computation, slot: int) -> int | None:
    """By how much a body raises the number in a slot of its carry."""
    if body.root.op != "tuple":
        return None
    found = body.body.get(body.root.operands[slot])
    if found is None or found.op != "add":
        return None
    values = [_value(body, name) for name in found.operands]
    return next((value for value in values if value is not None), None)
