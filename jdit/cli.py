# SPDX-License-Identifier: Apache-2.0
"""The command line: `jdit train|sample|eval|inspect RECIPE`."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import tyro

from jdit.allocation import keep_freed_memory
from jdit.recipe import Recipe, load_recipe

USAGE = """usage: jdit COMMAND RECIPE [--field value ...]

commands:
  train    train a recipe: checkpoints, metrics, sample grid, scores
  sample   draw images from a trained recipe, an export or a shipped model
  eval     score a trained recipe
  inspect  show a recipe's parts, parameters, tokens and FLOPs

RECIPE is a Python file with recipe(), a module, or a shipped name such as "digits".
`jdit COMMAND RECIPE --help` lists every field that can be set, with its type."""


@dataclass(frozen=True)
class Train(Recipe):
    """Train a recipe. Interrupted, the same command continues where it stopped."""

    folder: Path | None = None
    """Where the run is kept; runs/NAME if not given."""
    resume: bool = True
    """Continue from the folder's latest checkpoint, if it has one."""


@dataclass(frozen=True)
class Eval(Recipe):
    """Score a trained recipe."""

    folder: Path | None = None
    """Where the run is kept; runs/NAME if not given."""


@dataclass(frozen=True)
class Inspect(Recipe):
    """Show a recipe's parts, parameter counts, tokens and FLOPs; allocates nothing."""


_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _number_or_array(info: Any) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """A field that takes a number or an array takes a number here."""
    if not {jax.Array, float} <= set(get_args(info.type)):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda args: float(args[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value)],
    )


def parse(command: type, recipe: Recipe, prog: str, args: Sequence[str]) -> Any:
    """The recipe's fields, each settable by its path, and the command's own."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    with _REGISTRY:
        return tyro.cli(
            command,
            default=command(**fields),
            prog=prog,
            args=list(args),
            description=command.__doc__,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        )


def _split(parsed: Recipe) -> tuple[Recipe, Path]:
    fields = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(Recipe)}
    folder = getattr(parsed, "folder", None) or Path("runs") / parsed.name
    return Recipe(**fields), folder


def train(name: str, args: Sequence[str]) -> None:
    from jdit.train import fit, report

    parsed = parse(Train, load_recipe(name), f"jdit train {name}", args)
    recipe, folder = _split(parsed)
    result = fit(recipe, folder, resume=parsed.resume)
    report(recipe, result.folder)


def evaluate(name: str, args: Sequence[str]) -> None:
    from jdit.train import report

    recipe, folder = _split(parse(Eval, load_recipe(name), f"jdit eval {name}", args))
    report(recipe, folder)


def inspect(name: str, args: Sequence[str]) -> None:
    from jdit.inspect import show

    recipe, _ = _split(parse(Inspect, load_recipe(name), f"jdit inspect {name}", args))
    show(recipe)


def sample(name: str, args: Sequence[str]) -> None:
    from jdit import draw

    options = tyro.cli(draw.Sample, prog=f"jdit sample {name}", args=list(args))
    print(f"wrote {draw.draw(name, options)}")


COMMANDS: dict[str, Callable[[str, Sequence[str]], None]] = {
    "train": train,
    "sample": sample,
    "eval": evaluate,
    "inspect": inspect,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. A mistake of the user's is one sentence and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    command, *rest = argv
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        sys.exit(f"jdit: {command!r} is not a command; the commands are {known}")
    if not rest or rest[0] in ("-h", "--help"):
        print(USAGE)
        return
    keep_freed_memory()
    try:
        COMMANDS[command](rest[0], rest[1:])
    except (ArithmeticError, ImportError, OSError, TypeError, ValueError) as error:
        if os.environ.get("JDIT_TRACEBACK"):
            raise
        print(f"jdit: {error}", file=sys.stderr)
        sys.exit(2)
