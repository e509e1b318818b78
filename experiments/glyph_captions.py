# SPDX-License-Identifier: Apache-2.0
"""Emoji of a prompt: 64 x 64 in pixel space, told by the tokens of a text encoder.

    jdit train glyph_captions_32    # see there for the encoder and the start
    jdit train glyph_captions

PixArt's blocks (Chen et al., 2023), rectified flow as in `experiments/glyphs_64.py`.
"""

from dataclasses import replace

from experiments.glyph_captions_32 import recipe as first_stage
from jdit.evals import EfficientNetLite0, FeatureEvaluation, Retrieval
from jdit.guidance import CFG
from jdit.objectives import Denoising, LogitNormal
from jdit.objectives import Shifted as ShiftedTime
from jdit.recipe import Recipe, Sampling
from jdit.solvers import Shifted, UniPC


def recipe() -> Recipe:
    first = first_stage()
    data = replace(first.data, data=replace(first.data.data, size=64))
    names = replace(data, templates=("{}",))
    return replace(
        first,
        name="glyph-captions",
        model=replace(first.model, grid=(64, 64)),
        data=data,
        objective=Denoising(times=ShiftedTime(LogitNormal(), 2.0)),
        training=replace(
            first.training,
            start="runs/glyph-captions-32",
            steps=1500,
            batch=32,
            learning_rate=5e-4,
            ema=(0.995,),
        ),
        sampling=Sampling(
            solver=UniPC(), grid=Shifted(2.0), steps=12, guidance=CFG(3.0), per_class=1
        ),
        evaluation=Retrieval(
            FeatureEvaluation(EfficientNetLite0(resolution=128), names, samples=500)
        ),
    )
