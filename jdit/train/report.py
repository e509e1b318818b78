# SPDX-License-Identifier: Apache-2.0
"""After training: a grid of samples, and scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jdit.checkpoint import Checkpoints, differences, named
from jdit.pretrained import WEIGHTS, load_export
from jdit.recipe import Recipe
from jdit.train.state import abstract_state
from jdit.typing import Params


def trained(recipe: Recipe, folder: str | Path) -> Params:
    """The parameters to sample from: a run's export, or a later checkpoint's.

    FileNotFoundError when there is neither; ValueError when they are not those of the
    recipe's model.
    """
    folder, like = Path(folder), abstract_state(recipe)
    exported = None
    if (folder / "export" / WEIGHTS).is_file():
        exported = load_export(folder / "export")
    if (folder / "checkpoints").is_dir():
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            done = -1 if exported is None else exported.about["step"] or 0
            if any(step > done for step in checkpoints.steps()):
                return checkpoints.restore(like).state.sampled(recipe.training)
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


def report(
    recipe: Recipe,
    folder: str | Path,
    *,
    params: Params | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Draw samples.png, a row per class, and score the recipe's evaluation.

    Where the data (of the evaluation, if it has any) have `conditions`, what a model is
    told to draw an example of theirs, 50 of their examples stand in for classes.

    params: those of the folder's run, if not given. Writes scores.json, prints one line
    and returns the scores; {} when the recipe has no evaluation.
    """
    from jdit.draw import Drawer, by_label, grid

    folder, console = Path(folder), console or Console()
    params = trained(recipe, folder) if params is None else params
    sampling, model = recipe.sampling, recipe.model
    asked: Any = getattr(recipe.evaluation, "dataset", recipe.data)
    told = getattr(asked, "conditions", by_label)
    if told is by_label:
        classes = getattr(model.conditioning, "classes", 1)
        labels, columns = np.arange(classes), sampling.per_class
    else:  # some of the examples, by their numbers
        labels = np.unique(np.linspace(0, len(asked.source()) - 1, 50).astype(int))
        columns = 10
    labels = np.repeat(labels.astype(np.int32), sampling.per_class)

    def drawer(batch: int) -> Any:
        return Drawer(model, params, recipe.process, sampling, batch, told)

    images = drawer(min(sampling.batch, len(labels)))(sampling.seed, labels)
    grid(images, columns).save(folder / "samples.png")
    _say(console, f"{recipe.name}: samples in {folder / 'samples.png'}")
    if recipe.evaluation is None:
        return {}
    scores = recipe.evaluation(drawer(sampling.batch))
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    line = getattr(recipe.evaluation, "line", str)
    _say(console, f"{recipe.name}: {line(scores)}")
    return scores


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
