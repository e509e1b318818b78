# SPDX-License-Identifier: Apache-2.0
"""What a recipe is made of and what it costs, without allocating anything."""

import dataclasses
from collections.abc import Iterator
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from rich.console import Console, Group
from rich.table import Table
from rich.tree import Tree

from jdit.recipe import Recipe
from jdit.typing import Params

TEXT_TOKENS = 128
"""Tokens of text in the count of FLOPs."""


def parts(value: Any, name: str = "") -> Tree:
    """A tree of the parts, each with its class and its fields."""
    tree = Tree(f"{name}: [bold]{type(value).__name__}[/]" if name else str(value))
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            tree.children.append(parts(inner, field.name))
        elif field.repr and field.name != "source":
            tree.add(f"{field.name} = {inner!r}")
    return tree


def count(params: Params) -> int:
    """The number of values in a tree of arrays or shapes."""
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(params))


def told(model: Any, batch: int, text: int = TEXT_TOKENS) -> dict[str, Any]:
    """The shapes of what a model is told: a label, or text and what goes with it."""
    shape, part = jax.ShapeDtypeStruct, model.conditioning
    if part is None:
        return {}
    if not hasattr(part, "features") and not hasattr(part, "pooled"):
        return {"label": shape((batch,), jnp.int32)}
    conditions = {}
    if hasattr(part, "features"):
        conditions["text"] = shape((batch, text, part.features), jnp.float32)
    if getattr(part, "pooled", None):
        conditions["pooled"] = shape((batch, part.pooled), jnp.float32)
    if getattr(model, "guidance", False):
        conditions["guidance"] = shape((batch,), jnp.float32)
    return conditions


def flops(model: Any, batch: int = 1, text: int = TEXT_TOKENS) -> float:
    """FLOPs of one pass over a batch, told `text` tokens: XLA's count, see `cost`."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    shape = jax.ShapeDtypeStruct
    x_t = shape((batch, *model.sample_shape), jnp.float32)
    conditions = told(model, batch, text)

    def run(params: Params, x_t: jax.Array, time: jax.Array, conditions: dict) -> Any:
        return model.apply(params, x_t, time, conditions).prediction

    time = shape((batch,), jnp.float32)
    return cost(jax.make_jaxpr(run)(params, x_t, time, conditions))


def cost(program: ClosedJaxpr) -> float:
    """XLA's count of a program's FLOPs, with every pass of its scans.

    XLA counts what a loop holds once, whether it runs over layers or over chunks of
    queries; so each scan's body is counted by itself, and as often as it runs.
    """
    total = _once(program)
    for loop in _loops(program.jaxpr):
        body, length = loop.params["jaxpr"], loop.params["length"]
        held = int(loop.params["unroll"])  # bodies in the loop, and behind it
        held = length if held >= length else held + length % held
        total += length * cost(body) - held * _once(body)
    return total


def _once(program: ClosedJaxpr) -> float:
    lowered = jax.jit(jaxpr_as_fun(program)).lower(*program.in_avals)
    found: Any = lowered.cost_analysis() or {}
    return float(found.get("flops", 0.0))


def _loops(program: Jaxpr) -> Iterator[Any]:
    """The scans of a program that are in no other scan of it."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation
            continue
        for value in equation.params.values():
            inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            if isinstance(inner, Jaxpr):
                yield from _loops(inner)


def evaluations(recipe: Recipe) -> int:
    """Network passes per sampled image: a guided evaluation is two."""
    sampling = recipe.sampling
    guided = 1 if sampling.guidance is None else 2
    return sampling.steps * sampling.solver.evaluations * guided


def describe(recipe: Recipe) -> Group:
    """The parts, parameter counts, token geometry and cost, ready to print."""
    model = recipe.model
    params = jax.eval_shape(model.init, jax.random.key(0))
    counts = Table("parameters", "values", box=None, pad_edge=False)
    for name, tree in params.items():
        counts.add_row(name, f"{count(tree):,}")
    counts.add_row("total", f"[bold]{count(params):,}[/]")

    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_row("data", " x ".join(map(str, model.sample_shape)))
    if tokens := getattr(model, "tokens", None):
        facts.add_row(
            "tokens",
            f"{' x '.join(map(str, tokens.shape))} = {tokens.count}, "
            f"{prod(tokens.size) * model.channels} values each",
        )
    try:
        cost = flops(model) / 1e9
    except ValueError as error:  # it must be told more than a label or a text
        facts.add_row("forward", f"not counted: {error}")
    else:
        passes = evaluations(recipe)
        facts.add_row("forward", f"{cost:.3f} GFLOP per image (XLA's count)")
        facts.add_row("training", f"{3 * cost:.3f} GFLOP per image (3 x forward)")
        facts.add_row(
            "sampling",
            f"{passes * cost:.3f} GFLOP per image ({passes} network passes at most)",
        )
    return Group(parts(recipe, recipe.name), "", counts, "", facts)


def show(recipe: Recipe) -> None:
    """Print `describe(recipe)`."""
    Console(soft_wrap=True).print(describe(recipe))
