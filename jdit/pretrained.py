# SPDX-License-Identifier: Apache-2.0
"""Trained models as two files, and how to get one by name.

model.safetensors   the parameters, by their path: "blocks/attention/qkv/kernel"
model.json          the parts: model, process, sampling, classes; data, not code
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import safetensors
from safetensors import safe_open
from safetensors.flax import save_file

from jdit.bucket import fetched, in_bucket
from jdit.checkpoint import differences, versions
from jdit.interop.hub import resolve
from jdit.interop.layout import Placement, placed
from jdit.interop.models import load_model, save_model
from jdit.interop.schedulers import scheduler_from_diffusers
from jdit.objects import class_named, from_json, to_json
from jdit.recipe import Recipe, Sampling
from jdit.typing import Array, Params

WEIGHTS, PARTS = "model.safetensors", "model.json"
SHIPPED = Path(__file__).parent / "pretrained_weights"
RUNS = Path("runs")
WHOLE = Placement()
_SCHEDULER = "scheduler_config.json"

Sharding = Callable[[str, tuple[int, ...]], Any]
"""Where the parameter of that path and shape goes, such as `Plan.sharding`."""


@dataclass(frozen=True)
class Pretrained:
    """A trained model: `model, params = jdit.load("glyphs-64")`.

    process, sampling: what it was trained with, and how the recipe samples it; None
        where published weights lie without a scheduler beside them.
    classes: the names of the labels, or None. about: name, step, versions.
    """

    model: Any
    params: Params
    process: Any
    sampling: Sampling | None
    classes: tuple[str, ...] | None
    about: dict[str, Any]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.params))


def export(
    folder: str | Path,
    recipe: Recipe,
    params: Params,
    *,
    step: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Path:
    """Write parameters and parts to a folder that `load` reads.

    dtype: of floating-point parameters in the file; `load` gives float32. What only
    training needs ("objective") is left out. TypeError for parts that are not jdit's.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}, but it must be 'float32' or 'bfloat16'")
    folder = Path(folder)
    kept = {name: tree for name, tree in params.items() if name != "objective"}
    arrays, nodes = dissect(kept)
    classes = getattr(recipe.data, "classes", None)
    parts = {
        "name": recipe.name,
        "step": step,
        "model": to_json(recipe.model, where="model"),
        "process": to_json(recipe.process, where="process"),
        "sampling": to_json(recipe.sampling, where="sampling"),
        "classes": None if classes is None else [str(name) for name in classes],
        "nodes": nodes,
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: _cast(x, dtype) for name, x in arrays.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes 0o600
    (folder / PARTS).write_text(json.dumps(parts, indent=1) + "\n", "utf-8")
    return folder


def load_export(folder: str | Path, place: Placement = WHOLE) -> Pretrained:
    """The model that `export` wrote. Runs no code of the folder's.

    place: the dtype and the sharding of its parameters.

    FileNotFoundError when a file is missing; ValueError when one is damaged, or the
    parameters are not the model's.
    """
    folder = Path(folder)
    for name in (PARTS, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: it is not an export")
    try:
        parts = json.loads((folder / PARTS).read_text("utf-8"))
        model, process, sampling = (
            from_json(parts[name]) for name in ("model", "process", "sampling")
        )
        nodes, classes = parts["nodes"], parts["classes"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / PARTS} is damaged: {error!r}") from error
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            arrays = {n: _placed(n, file.get_tensor(n), place) for n in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from error
    params = assemble(arrays, nodes)
    return Pretrained(
        model,
        params,
        process,
        sampling,
        None if classes is None else tuple(classes),
        {name: parts.get(name) for name in ("name", "step", "versions")},
    )


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    sharding: Sharding | None = None,
    **config: Any,
) -> Pretrained:
    """A trained model, by name, from a folder or from a file.

    name: of a shipped model ("glyphs-64"); the folder of an export or of a run, be it
        in a bucket ("gs://bucket/run"); a recipe's name or file; published weights: a
        folder in diffusers' layout, a file in the authors' own, or a name on the
        Hugging Face hub ("owner/name").
    revision: of the hub's repository; a commit's hash pins it.
    dtype: of the parameters. sharding: of each, given its path and shape; see
        `jdit.interop.layout.Placement`. Weights go straight there, a tensor at a time.
    config: what published weights do not show, such as `heads=16`.

    FileNotFoundError says what there is; ValueError names a tensor or a field of a
    config that is not known.
    """
    place = Placement(dtype, sharding)
    folder = exported(name)
    if folder is not None:
        return load_export(folder, place)
    if Path(name).exists() or (isinstance(name, str) and name.count("/") == 1):
        return load_published(resolve(name, revision), place, **config)
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{PARTS}"))
    raise FileNotFoundError(
        f"there is no trained model {str(name)!r}: not a folder with an export, not a "
        f"run in {RUNS}/, and not a shipped model ({', '.join(shipped) or 'none'})"
    )


def exported(name: str | Path) -> Path | None:
    """The folder of the export that a name means to `load`, or None.

    One in a bucket ("gs://bucket/run") is copied to this machine.
    """
    if in_bucket(name):
        return fetched(str(name))
    stem = Path(name).stem if str(name).endswith(".py") else Path(name).name
    places = [Path(name), SHIPPED / name]
    places += [RUNS / stem, RUNS / stem.replace("_", "-")]
    folders = (folder for where in places for folder in (where, where / "export"))
    return next((folder for folder in folders if (folder / PARTS).is_file()), None)


def load_published(path: Path, place: Placement = WHOLE, **config: Any) -> Pretrained:
    """A model from published weights, and how its scheduler samples, if it has one."""
    with placed(place):
        model, params = load_model(path, **config)
    process, sampling = None, None
    if any((path / where / _SCHEDULER).is_file() for where in ("", "scheduler")):
        count = model.tokens.count
        process, solver, grid = scheduler_from_diffusers(path, tokens=count)
        sampling = Sampling(solver=solver, grid=grid)
    return Pretrained(model, params, process, sampling, None, {"name": str(path)})


def save(
    path: str | Path,
    model: Any,
    params: Params,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Write a model in the layout in which its family is published.

    What `load` read comes back bitwise. path: a folder in diffusers' layout, or a file
    ending in .safetensors in the authors' own. ValueError for a model that the layout
    cannot express.
    """
    save_model(path, model, params, dtype=dtype)


def start_from(name: str, params: Params, sharding: Sharding | None = None) -> Params:
    """The parameters of a trained model, to go on from in place of `params`.

    What `params` has and the model has not ("objective") stays. sharding: see `load`.
    ValueError when they are of another model.
    """
    found = {**params, **load(name, sharding=sharding).params}
    shapes = [
        {path: tuple(x.shape) for path, x in dissect(tree)[0].items()}
        for tree in (params, found)
    ]
    other = differences(*shapes)
    if other:
        raise ValueError(f"{name} is of another model: {other}")
    return found


def dissect(params: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays by path, and the array-like leaves that some of them make up.

    The second is {path: {"class": "jdit.surgery...:LowRank", "static": {...}}}.
    """
    arrays: dict[str, Array] = {}
    nodes: dict[str, Any] = {}

    def visit(tree: Any, path: tuple[str, ...]) -> None:
        name = "/".join(path)
        if isinstance(tree, dict):
            for key, child in tree.items():
                visit(child, (*path, key))
        elif dataclasses.is_dataclass(tree):
            kind, static = type(tree), {}
            for part in dataclasses.fields(tree):
                value = getattr(tree, part.name)
                if not part.metadata.get("pytree_node", True):
                    static[part.name] = to_json(value, where=f"{name}.{part.name}")
                elif value is not None:
                    visit(value, (*path, part.name))
            label = f"{kind.__module__}:{kind.__qualname__}"
            class_named(label)
            nodes[name] = {"class": label, "static": static}
        elif hasattr(tree, "dtype"):
            arrays[name] = tree
        else:
            raise TypeError(f"params has a {type(tree).__name__} at {name}")

    visit(params, ())
    return arrays, nodes


def assemble(arrays: dict[str, Array], nodes: dict[str, Any]) -> Params:
    """The tree that `dissect` took apart."""
    root: Params = {}

    def parent(path: list[str]) -> Params:
        tree = root
        for key in path[:-1]:
            tree = tree.setdefault(key, {})
        return tree

    for name, array in arrays.items():
        path = name.split("/")
        parent(path)[path[-1]] = array
    for name in sorted(nodes, key=lambda name: -name.count("/")):  # inner ones first
        path, kind = name.split("/"), class_named(nodes[name]["class"])
        static = {k: from_json(v) for k, v in nodes[name]["static"].items()}
        fields = parent(path).get(path[-1], {})
        missing = {f.name: None for f in dataclasses.fields(kind)}
        parent(path)[path[-1]] = kind(**missing | fields | static)
    return root


def _placed(name: str, x: Any, place: Placement) -> Array:
    """A stored parameter where it belongs; whole numbers keep their dtype."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        place = replace(place, dtype=x.dtype.name)
    return place(name, x)


def _cast(x: Array, dtype: str) -> Array:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.asarray(x)
