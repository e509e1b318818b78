# SPDX-License-Identifier: Apache-2.0
"""Emoji of a prompt at 64 x 64: a continuation of `experiments/glyph_captions.py`.

    jdit train glyph_captions                  # see there for what comes before
    python -m experiments.glyph_captions_64    # writes runs/glyph-captions-64-start
    jdit train glyph_captions_64

It begins as the shipped class-conditional model at 64 x 64 plus what captions changed
at 32 x 32: the difference between the first stage's end and beginning (a task vector;
Ilharco et al., 2023, "Editing models with task arithmetic"), both being fine-tuned from
`glyphs_32`. Then it is trained as `experiments/glyphs_64.py` is.

Not shipped: measured here were 240 steps, from 649 of the first stage, after which
shapes follow the prompt and colours often do not yet.
"""

from dataclasses import replace
from pathlib import Path

import jax

from experiments import glyph_captions as first_stage
from jdit.evals import EfficientNetLite0, FeatureEvaluation, Retrieval
from jdit.guidance import CFG
from jdit.objectives import Denoising, LogitNormal
from jdit.objectives import Shifted as ShiftedTime
from jdit.pretrained import export, load
from jdit.recipe import Cooldown, Recipe, Sampling
from jdit.solvers import Shifted, UniPC

START = Path("runs/glyph-captions-64-start")


def recipe() -> Recipe:
    first = first_stage.recipe()
    data = replace(first.data, data=replace(first.data.data, size=64))
    names = replace(data, templates=("{}",))
    return replace(
        first,
        name="glyph-captions-64",
        model=replace(first.model, grid=(64, 64), position_scale=0.5),
        data=data,
        objective=Denoising(times=ShiftedTime(LogitNormal(), 2.0)),
        training=replace(
            first.training,
            start=str(START),
            steps=2000,
            batch=32,
            learning_rate=3e-4,
            schedule=Cooldown(0.3),
            ema=(0.98,),
        ),
        sampling=Sampling(
            solver=UniPC(), grid=Shifted(2.0), steps=12, guidance=CFG(2.0), per_class=1
        ),
        evaluation=Retrieval(
            FeatureEvaluation(EfficientNetLite0(resolution=128), names, samples=500)
        ),
    )


def start(folder: Path = START) -> Path:
    """Write where this stage begins: glyphs-64, plus what the first stage learned."""
    made = recipe()
    base = first_stage.told_by_captions(load("glyphs-64").params, made.data)
    before, after = load(first_stage.START).params, load("runs/glyph-captions").params
    params = jax.tree.map(lambda x, a, b: x + (b - a), base, before, after)
    return export(folder, made, params)


if __name__ == "__main__":
    print(f"wrote {start()}")
