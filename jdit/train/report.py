# SPDX-License-Identifier: Apache-2.0
"""After training: a grid of samples, and scores."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jdit.checkpoint import Checkpoints, differences, named
from jdit.evals.protocol import Protocol, machine_fields
from jdit.evals.protocol import line as protocol_line
from jdit.interop.layout import Placement
from jdit.parallel import Mesh, Plan, arrange, barrier, first, whole
from jdit.pretrained import WEIGHTS, load_export
from jdit.recipe import Recipe
from jdit.train.partial import model_of
from jdit.train.state import abstract_state
from jdit.typing import Params


def trained(recipe: Recipe, folder: str | Path, plan: Plan | None = None) -> Params:
    """The parameters to sample from: a run's export, or a later checkpoint's.

    plan: where they go. Of several processes it is of this one's devices; all must call
    this together.

    FileNotFoundError when there is neither; ValueError when they are not those of the
    recipe's model.
    """
    alone = jax.process_count() == 1
    # a checkpoint is read by all processes together, each its part
    spread = plan if alone else _everywhere(recipe)
    folder, like = Path(folder), abstract_state(recipe, spread)
    place = Placement(sharding=None if plan is None else plan.sharding)
    exported = None
    if (folder / "export" / WEIGHTS).is_file():
        exported = load_export(folder / "export", place)
    if (folder / "checkpoints").is_dir():
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            done = -1 if exported is None else exported.about["step"] or 0
            if any(step > done for step in checkpoints.steps()):
                params = checkpoints.restore(like).state.sampled(recipe.training)
                return params if alone else jax.tree.map(whole, params)
    if exported is None:
        raise FileNotFoundError(f"there is no trained run in {folder}: train it first")
    kept = {name: tree for name, tree in like.params.items() if name != "objective"}
    shapes = [
        {name: tuple(x.shape) for name, x in named(tree).items()}
        for tree in (kept, exported.params)
    ]
    other = differences(*shapes)
    if other:
        raise ValueError(f"{folder} is a run of another model: {other}")
    return exported.params


def _everywhere(recipe: Recipe) -> Plan | None:
    """Parameters split over the devices of all processes."""
    return arrange(Mesh(data=1, fsdp=-1), recipe.sharding, model=recipe.model)


def report(
    recipe: Recipe,
    folder: str | Path,
    *,
    params: Params | None = None,
    devices: Sequence[jax.Device] | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Draw samples.png, a row per class, and score the recipe's evaluation.

    Where the data (of the evaluation, if it has any) have `conditions`, what a model is
    told to draw an example of theirs, 50 of their examples stand in for classes.

    params: those of the folder's run, if not given. devices: as `fit` takes them.
    Writes scores.json, the scores with their protocol, prints both, a line each, and
    returns the scores; {} when the recipe has no evaluation, or its samples are
    latents, which is said. Videos are .webp files in a folder "samples". Of several
    processes each draws its share of every batch, over its own devices, and the first
    one writes; all must call this.
    """
    folder, console = Path(folder), console or Console(quiet=not first())
    mesh = recipe.mesh
    if jax.process_count() > 1:
        mesh, devices = Mesh(data=1, fsdp=-1), jax.local_devices()
    plan = arrange(mesh, recipe.sharding, model=recipe.model, devices=devices)
    if params is None:
        params = trained(recipe, folder, plan)
    elif plan is not None:
        params = jax.device_put(params, plan.tree(params, params))
    try:
        return _report(recipe, folder, params, plan, console)
    finally:
        barrier("reported")


def _report(
    recipe: Recipe, folder: Path, params: Params, plan: Plan | None, console: Console
) -> dict[str, float]:
    from jdit.draw import Drawer, by_label, grid, write_videos
    from jdit.evals.drawn import Draw, together

    sampling, model = recipe.sampling, model_of(recipe)
    asked: Any = getattr(recipe.evaluation, "dataset", recipe.data)
    told = getattr(asked, "conditions", None)
    if not callable(told):
        told = by_label
    *sides, channels = model.sample_shape
    if len(sides) not in (2, 3) or channels not in (1, 3):
        shape = "x".join(map(str, model.sample_shape))
        _say(console, f"{recipe.name}: its samples are {shape}, not pictures to show")
        return {}
    if told is by_label:
        classes = getattr(model.conditioning, "classes", None) or 1
        labels, columns = np.arange(classes), sampling.per_class
    else:  # some of the examples, by their numbers
        labels = np.unique(np.linspace(0, len(asked.source()) - 1, 50).astype(int))
        columns = 10
    labels = np.repeat(labels.astype(np.int32), sampling.per_class)

    def drawer(batch: int) -> Draw:
        batch = -(-batch // jax.process_count())
        batch = batch if plan is None else plan.round_up(batch)
        one = Drawer(model, params, recipe.process, sampling, batch, told, plan)
        return together(one)

    images = drawer(min(sampling.batch, len(labels)))(sampling.seed, labels, 0)
    shown = folder / ("samples.png" if len(sides) == 2 else "samples")
    if first() and len(sides) == 2:
        grid(images, columns).save(shown)
    elif first():
        write_videos(shown, images, labels, fps=8)
    _say(console, f"{recipe.name}: samples in {shown}")
    if recipe.evaluation is None:
        return {}
    scores = recipe.evaluation(drawer(sampling.batch))
    protocol = _protocol(recipe, model, params)
    content = json.dumps({"scores": scores, "protocol": protocol}, indent=1)
    if first():
        (folder / "scores.json").write_text(content + "\n", "utf-8")
    line = getattr(recipe.evaluation, "line", str)
    _say(console, f"{recipe.name}: {line(scores)}")
    _say(console, protocol_line(protocol))
    return scores


def _protocol(recipe: Recipe, model: Any, params: Params) -> Protocol:
    """What moves the scores of the recipe's own evaluation, field by field."""
    from jdit.evals.model import model_fields

    own = getattr(recipe.evaluation, "protocol", dict)
    drawn = model_fields(model, params, recipe.process, recipe.sampling)
    return {**drawn, **own(), **machine_fields()}


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
