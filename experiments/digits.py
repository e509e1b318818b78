# SPDX-License-Identifier: Apache-2.0
"""The main job: a class-conditional DiT on 1,797 real handwritten digits.

    jdit train digits

DiT's blocks (Peebles and Xie, 2023) with the rectified-flow process and SD3's
logit-normal times (Esser et al., 2024), small enough for two CPU cores.
"""

from jdit.conditioning import Labels
from jdit.data import Digits
from jdit.evals import DigitsEvaluation
from jdit.guidance import CFG
from jdit.models import DiT
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian
from jdit.recipe import Cosine, Recipe, Sampling, Training
from jdit.solvers import Heun


def recipe() -> Recipe:
    return Recipe(
        name="digits",
        model=DiT(
            grid=(8, 8),
            channels=1,
            patch=2,
            dim=128,
            depth=6,
            heads=4,
            conditioning=Labels(10),
        ),
        data=Digits("train"),
        process=Gaussian(),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=1200,
            batch=128,
            learning_rate=1e-3,
            warmup=100,
            schedule=Cosine(),
            ema=(0.995,),
            log_every=50,
            checkpoint_every=500,
        ),
        sampling=Sampling(solver=Heun(), steps=10, guidance=CFG(1.1), per_class=10),
        evaluation=DigitsEvaluation(),
    )
