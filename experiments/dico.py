# SPDX-License-Identifier: Apache-2.0
"""DiCo-XL on ImageNet's latents (Ai et al., 2025, "Revitalizing ConvNets").

    jdit train dico    # on latents that `jdit encode` wrote

From the published code (train_accelerate.py), which trains as DiT does: Stable
Diffusion's autoencoder, DDPM's linear schedule of 1,000 steps, noise prediction with
learned variance, AdamW at a constant 1e-4 without decay, batches of 256, EMA 0.9999,
400,000 steps (3,750,000 for the best model). Published result: FID 11.67 without
guidance at 400,000 steps, 2.05 at 3,750,000 with guidance 1.4; 250 ancestral steps.

Chosen here: nothing beside the precision, bfloat16.
"""

from jdit.data import Encoded
from jdit.guidance import CFG
from jdit.models import dico
from jdit.objectives import DenoisingVLB
from jdit.processes import DDPMLinear, Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DDPM


def recipe() -> Recipe:
    return Recipe(
        name="dico-xl",
        model=dico("XL", dtype="bfloat16"),
        data=Encoded("data/imagenet256-sd"),
        process=Gaussian(DDPMLinear(), "noise"),
        objective=DenoisingVLB(),
        training=Training(
            steps=400_000,
            batch=256,
            learning_rate=1e-4,
            betas=(0.9, 0.999),
            clip=None,
            ema=(0.9999,),
            flip=False,
        ),
        sampling=Sampling(
            solver=DDPM(), steps=250, guidance=CFG(1.4, channels=3), batch=50
        ),
    )
