# SPDX-License-Identifier: Apache-2.0
"""FLOPs of a run as it went: XLA's count of each piece, times how often it ran.

No compiled program says which side of a `lax.cond` is taken, or how often a loop turns
that ends by what it finds: caching, guidance in an interval and adaptive steps are such
programs. So the pieces between control flow are counted by XLA, and a program that does
the same counts on the host how often each of them is entered.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Path = tuple[Any, ...]
"""Where an equation is: numbers from the outermost program inwards, and a side."""

Control = Callable[[Any, list, Path], Any]
"""What is done in the place of a loop or a conditional: (equation, inputs, path)."""


class Executed:
    """A function, jitted, whose executed FLOPs are counted.

    args: what it will be called with, or their shapes. Results are those of
    `jax.jit(function)`; a call costs a host callback for each conditional that is met.

        run = Executed(draw, params, key)
        images = run(params, key)
        run.flops() / len(images)

    Work that no loop or conditional holds is counted at each call, and a scan's body as
    often as the scan is long. Raises NotImplementedError for loops and conditionals
    inside operations that cannot be taken apart (`shard_map`, kernels).
    """

    def __init__(self, function: Callable, *args: Any) -> None:
        self.program, out = jax.make_jaxpr(function, return_shape=True)(*args)
        self.calls, self.entered = 0, Counter[Path]()
        self._out = jax.tree.structure(out)
        self._costs: dict[int, float] = {}

        def run(*args: Any) -> Any:
            flat = _evaluate(self.program, jax.tree.leaves(args), (), self._watch)
            return jax.tree.unflatten(self._out, flat)

        self._run = jax.jit(run)

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self._run(*args)

    def flops(self) -> float:
        """Of all calls so far."""
        jax.effects_barrier()
        return self._spent(self.program, (), self.calls)

    def _enter(self, path: Path) -> None:
        jax.debug.callback(partial(self._add, path))

    def _add(self, path: Path) -> None:
        self.entered[path] += 1

    def _watch(self, equation: Any, inputs: list, path: Path) -> Any:
        """The loop or conditional, with its pieces watched too."""
        params = dict(equation.params)
        match equation.primitive.name:
            case "cond":
                pieces = enumerate(params["branches"])
                sides = [self._watched(piece, (*path, i)) for i, piece in pieces]
                params["branches"] = tuple(sides)
            case "while":
                body = self._watched(params["body_jaxpr"], (*path, 0))
                params["body_jaxpr"] = body
            case _:  # a scan, whose length is known
                body = self._watched(params["jaxpr"], (*path, 0), enter=False)
                params["jaxpr"] = body
        return _bind(equation.primitive, inputs, params)

    def _watched(
        self, piece: ClosedJaxpr, path: Path, enter: bool = True
    ) -> ClosedJaxpr:
        def run(*args: Any) -> list:
            if enter:
                self._enter(path)
            return _evaluate(piece, args, path, self._watch)

        return jax.make_jaxpr(run)(*map(_shape, piece.jaxpr.invars))

    def _spent(self, piece: ClosedJaxpr, path: Path, times: int) -> float:
        """FLOPs of a piece that was run so often, and of all that it holds."""
        if not times:
            return 0.0
        if id(piece.jaxpr) not in self._costs:
            self._costs[id(piece.jaxpr)] = _between(piece)
        total = times * self._costs[id(piece.jaxpr)]
        for where, equation in _controls(piece.jaxpr, path):
            params = equation.params
            match equation.primitive.name:
                case "scan":
                    inner, often = [params["jaxpr"]], [times * params["length"]]
                case "while":
                    inner, often = [params["body_jaxpr"]], [self.entered[*where, 0]]
                case _:
                    inner = params["branches"]
                    often = [self.entered[*where, i] for i in range(len(inner))]
            for i, (held, count) in enumerate(zip(inner, often, strict=True)):
                total += self._spent(held, (*where, i), count)
        return total


def _evaluate(program: ClosedJaxpr, args: Any, path: Path, control: Control) -> list:
    """The program's outputs, with `control` in the place of what it controls."""
    jaxpr = program.jaxpr
    values: dict[Any, Any] = {}

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else values[var]

    values.update(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for i, equation in enumerate(jaxpr.eqns):
        inputs = [read(var) for var in equation.invars]
        if equation.primitive.name in CONTROL:
            out = control(equation, inputs, (*path, i))
        elif inner := _opened(equation):
            out = _evaluate(inner, inputs, (*path, i), control)
        else:
            out = _bind(equation.primitive, inputs, equation.params)
            out = out if equation.primitive.multiple_results else [out]
        values.update(zip(equation.outvars, out, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _bind(primitive: Any, inputs: list, params: dict[str, Any]) -> Any:
    found = primitive.get_bind_params(params)
    functions, params = found if isinstance(found, tuple) else ((), found)
    return primitive.bind(*functions, *inputs, **params)


def _shape(var: Any) -> jax.ShapeDtypeStruct:
    weak = getattr(var.aval, "weak_type", False)
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype, weak_type=weak)


CONTROL = ("scan", "while", "cond")
CALLS = (
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
)


def _opened(equation: Any) -> ClosedJaxpr | None:
    """The program that an equation calls, if there is control flow in it."""
    held = [
        value if isinstance(value, ClosedJaxpr) else ClosedJaxpr(value, ())
        for value in equation.params.values()
        if isinstance(value, (ClosedJaxpr, Jaxpr))
    ]
    held = [inner for inner in held if any(_controls(inner.jaxpr, ()))]
    if not held:
        return None
    if equation.primitive.name not in CALLS or len(held) > 1:
        raise NotImplementedError(
            f"FLOPs of control flow inside {equation.primitive.name} are not counted"
        )
    return held[0]


def _controls(jaxpr: Jaxpr, path: Path) -> Iterator[tuple[Path, Any]]:
    """The loops and conditionals of a program that are in no other one of it."""
    for i, equation in enumerate(jaxpr.eqns):
        if equation.primitive.name in CONTROL:
            yield (*path, i), equation
        elif inner := _opened(equation):
            yield from _controls(inner.jaxpr, (*path, i))


def _between(program: ClosedJaxpr) -> float:
    """XLA's count of what is in no loop or conditional of the program."""
    cut = [equation for _, equation in _controls(program.jaxpr, ())]

    def run(args: list, outputs: list) -> tuple[list, list]:
        left, needed = iter(outputs), []

        def stand_in(equation: Any, inputs: list, path: Path) -> list:
            needed.append(inputs)
            return next(left)

        return _evaluate(program, args, (), stand_in), needed

    args = [_shape(var) for var in program.jaxpr.invars]
    outputs = [[_shape(var) for var in equation.outvars] for equation in cut]
    found: Any = jax.jit(run).lower(args, outputs).cost_analysis() or {}
    return float(found.get("flops", 0.0))
