# SPDX-License-Identifier: Apache-2.0
"""The command line: `jdit train|sample|eval|inspect RECIPE`."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import tyro

from jdit.allocation import keep_freed_memory
from jdit.evals.against import Against
from jdit.parallel import Mesh, Ring, Rules, Ulysses, first, join
from jdit.recipe import Part, Recipe, Sampling, load_recipe

USAGE = """usage: jdit COMMAND RECIPE [--field value ...]

commands:
  train    train a recipe: checkpoints, metrics, sample grid, scores
  sample   draw images from a trained recipe, an export or a shipped model
  eval     score a trained recipe, a model or saved images; compare scores
  inspect  show a recipe's parts, parameters, tokens and FLOPs
  compile  compile for a TPU slice that is not there: memory, exchanges, time; with
           --search, find the fastest mesh, remat policy and batch that fit

RECIPE is a Python file with recipe(), a module, or a shipped name such as "digits".
`jdit COMMAND RECIPE --help` lists every field that can be set, with its type.

jdit eval RECIPE                      the recipe's own evaluation
jdit eval NAME --reference FILE       FID and its kin against a reference; NAME is a
                                      recipe, a trained model, a folder of PNGs, an
                                      .npz (arr_0) or an .array_record. Stopped, the
                                      same command goes on.
jdit eval NAME --paired RUN           PSNR, SSIM, relative error (and LPIPS) against a
                                      run of the same noise, image by image
jdit eval --compare A.json B.json     what differs between two scores, field by field.
                                      Exit status 0 if the protocols are the same,
                                      whatever the scores are, 1 if any field of them
                                      differs, 2 for a mistake."""


@dataclass(frozen=True)
class Train(Recipe):
    """Train a recipe. Interrupted, the same command continues where it stopped."""

    folder: Path | None = None
    """Where the run is kept; runs/NAME if not given."""
    resume: bool = True
    """Continue from the folder's latest checkpoint, if it has one."""
    profile: tuple[int, int] | None = None
    """First and last step, such as 11 15, to trace into the folder's profile/."""
    debug_nans: bool = False
    """Stop where a NaN first appears and say where; slower, and needs more memory."""


@dataclass(frozen=True)
class Eval(Against, Recipe):
    """Score a trained recipe: by its own evaluation, or against a --reference."""

    folder: Path | None = None
    """Where the run is kept; runs/NAME if not given."""


@dataclass(frozen=True)
class EvalModel(Against):
    """Score a trained model against a reference."""

    sampling: Part = Sampling()
    """How samples are drawn."""
    mesh: Mesh = Mesh()
    """How many devices each axis of parallelism has."""
    sharding: Rules = Rules()
    """What the mesh's axes split."""


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


@_REGISTRY.primitive_rule
def _attention(info: Any) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """One of two parts without fields, by its name."""
    kinds = {kind.__name__: kind for kind in (Ulysses, Ring)}
    if set(get_args(info.type)) != set(kinds.values()):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(kinds) + "}",
        instance_from_str=lambda args: kinds[args[0]](),
        is_instance=lambda value: isinstance(value, (Ulysses, Ring)),
        str_from_instance=lambda value: [type(value).__name__],
        choices=tuple(kinds),
    )


def parse(command: type, recipe: Recipe, prog: str, args: Sequence[str]) -> Any:
    """The recipe's fields, each settable by its path, and the command's own."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    return _options(command(**fields), prog, args)


def _options(default: Any, prog: str, args: Sequence[str]) -> Any:
    """An object with the fields that the command line sets."""
    with _REGISTRY:
        return tyro.cli(
            type(default),
            default=default,
            prog=prog,
            args=list(args),
            description=type(default).__doc__,
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
    if parsed.debug_nans:
        jax.config.update("jax_debug_nans", True)
    result = fit(recipe, folder, resume=parsed.resume, profile=parsed.profile)
    if result.done:  # whoever stopped it wants it to end
        report(recipe, result.folder)


def evaluate(name: str, args: Sequence[str]) -> None:
    from jdit import score
    from jdit.evals.images import stored
    from jdit.pretrained import exported
    from jdit.train import report

    if name == "--compare":
        return compare(args)
    prog, images = f"jdit eval {name}", stored(name)
    if images is not None and exported(name) is None:
        saved: Against = _options(Against(), prog, args)
        root = Path("runs") / "eval" / Path(name).stem
        fields, about = {"samples": images.hash()}, {"samples": name}
        more: Any = dict(root=root, batch=saved.batch or 64, about=about)
        return _show(score.score(images, fields, saved, **more))
    try:
        recipe = load_recipe(name)
    except (FileNotFoundError, ImportError):
        known = exported(name) is not None or Path(name).exists()
        if name.endswith(".py") or not known:
            raise
        return _evaluate_model(name, args)
    parsed = parse(Eval, recipe, prog, args)
    recipe, folder = _split(parsed)
    against = parsed.reference, parsed.prompts, parsed.paired
    if all(path is None for path in against):
        report(recipe, folder)
        return
    _show(score.score_recipe(recipe, folder, _against(parsed)))


def _show(path: Path) -> None:
    from jdit.score import show

    if first():  # of several processes
        print(show(path))


def compare(args: Sequence[str]) -> None:
    """What differs between two files of scores; exit status 1 if a field does."""
    from jdit.evals.protocol import compare_files

    if len(args) != 2:
        raise ValueError(
            f"--compare takes 2 files of scores, but {len(args)} are given"
        )
    protocol, scores = compare_files(*args)
    print("\n".join(protocol) or "the protocols are the same")
    print("\n".join(f"score {line}" for line in scores) or "the scores are the same")
    if protocol:
        sys.exit(1)


def _evaluate_model(name: str, args: Sequence[str]) -> None:
    from jdit import score
    from jdit.pretrained import load

    loaded = load(name)
    default = EvalModel(sampling=loaded.sampling or Sampling())
    parsed = _options(default, f"jdit eval {name}", args)
    if loaded.process is None:
        raise ValueError(
            f"{name} does not say which process its model was trained with"
        )
    asked = parsed.sampling, _against(parsed), name
    _show(score.score_model(loaded, *asked, parsed.mesh, parsed.sharding))


def _against(parsed: Against) -> Against:
    names = (f.name for f in dataclasses.fields(Against))
    return Against(**{name: getattr(parsed, name) for name in names})


def inspect(name: str, args: Sequence[str]) -> None:
    from jdit.inspect import show

    recipe, _ = _split(parse(Inspect, load_recipe(name), f"jdit inspect {name}", args))
    show(recipe)


def compile_(name: str, args: Sequence[str]) -> None:
    from jdit.compile import compile_recipe, rank, search, show
    from jdit.compile.options import Compile

    wanted = any(word.split(".")[0] == "--search" for word in args)
    args = [word for word in args if word != "--search"]
    parsed = parse(Compile, load_recipe(name), f"jdit compile {name}", args)
    recipe = _split(parsed)[0]
    if wanted:
        if parsed.what != "train":
            raise ValueError(f"--search is for training, but --what is {parsed.what}")
        say = partial(print, file=sys.stderr, flush=True)
        found = search(recipe, parsed.topology, parsed.search, say)
        rank(found, name)
        if found.best is None:
            sys.exit(1)
        return
    report = compile_recipe(recipe, parsed.topology, parsed.what)
    show(report)
    if report.refusal is not None:
        sys.exit(1)


def sample(name: str, args: Sequence[str]) -> None:
    from jdit import draw

    default = draw.Sample()
    try:
        recipe = load_recipe(name)
        default = draw.Sample(mesh=recipe.mesh, sharding=recipe.sharding)
    except (ImportError, FileNotFoundError, ValueError):
        pass  # a shipped model, an export or published weights
    options = _options(default, f"jdit sample {name}", args)
    print(f"wrote {draw.draw(name, options)}")


COMMANDS: dict[str, Callable[[str, Sequence[str]], None]] = {
    "train": train,
    "sample": sample,
    "eval": evaluate,
    "inspect": inspect,
    "compile": compile_,
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
        if command == "train" or (command == "eval" and rest[0] != "--compare"):
            join()  # the same command on every host is one run
        COMMANDS[command](rest[0], rest[1:])
    except (ArithmeticError, ImportError, OSError, TypeError, ValueError) as error:
        if os.environ.get("JDIT_TRACEBACK"):
            raise
        print(f"jdit: {error}", file=sys.stderr)
        sys.exit(2)
