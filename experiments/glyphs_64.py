# SPDX-License-Identifier: Apache-2.0
"""The reference model: emoji at 64 x 64 in pixel space, 256 tokens, 101 classes.

    jdit train glyphs_32
    jdit train glyphs_64

DiT's blocks, rectified flow with SD3's logit-normal times (Esser et al., 2024). It
starts from the 32 x 32 stage, at half its coordinates, so that a position means the
same place; the resolution shift 2 = sqrt(256 / 64) moves times towards noise (equation
23). Classes are Unicode's subgroups of the 1,997 glyphs without skin tones.
"""

from dataclasses import replace

from experiments.glyphs_32 import recipe as first_stage
from jdit.data import Glyphs
from jdit.objectives import Denoising, LogitNormal, Shifted
from jdit.recipe import Cooldown, Recipe


def recipe() -> Recipe:
    first = first_stage()
    return replace(
        first,
        name="glyphs-64",
        model=replace(first.model, grid=(64, 64), position_scale=0.5),
        data=Glyphs(64, classes_by="subgroup", tones=False),
        objective=Denoising(times=Shifted(LogitNormal(), 2.0)),
        training=replace(
            first.training,
            start="runs/glyphs-32",
            steps=3000,
            batch=32,
            learning_rate=5e-4,
            warmup=100,
            schedule=Cooldown(0.3),
        ),
        sampling=replace(first.sampling, per_class=4),
    )
