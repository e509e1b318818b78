# SPDX-License-Identifier: Apache-2.0
"""First stage of the reference model: emoji at 32 x 32, 64 tokens.

    jdit train glyphs_32

A quarter of the tokens of the second stage (`experiments/glyphs_64.py`), so that shapes
and colours are learned at a quarter of its cost, as PixArt-alpha grows its
resolution (Chen et al., 2023).
"""

from jdit.conditioning import Labels
from jdit.data import Glyphs
from jdit.guidance import CFG
from jdit.models import DiT
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Heun

GROUPS = ("Smileys & Emotion", "Animals & Nature", "Food & Drink")


def recipe() -> Recipe:
    data = Glyphs(32, classes_by="subgroup", groups=GROUPS)
    return Recipe(
        name="glyphs-32",
        model=DiT(
            grid=(32, 32),
            channels=3,
            patch=4,
            dim=192,
            depth=10,
            heads=3,
            conditioning=Labels(len(data.classes)),
        ),
        data=data,
        process=Gaussian(),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=4000,
            batch=64,
            learning_rate=1e-3,
            warmup=200,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            ema=(0.999,),
            log_every=50,
            checkpoint_every=250,
        ),
        sampling=Sampling(solver=Heun(), steps=25, guidance=CFG(2.0), per_class=2),
    )
