# SPDX-License-Identifier: Apache-2.0
"""DiT-XL/2 on ImageNet 256, the recipe that most others are measured against.

    jdit train dit_xl_2    # on latents that `jdit encode` wrote
    jdit compile dit_xl_2 --model.dtype bfloat16 --topology v5e:16x16 --search

Peebles and Xie, 2023. From the published code (train.py, sample_ddp.py): Stable
Diffusion's autoencoder, DDPM's linear schedule of 1,000 steps, noise prediction with
learned variance, AdamW at a constant 1e-4 without decay, batches of 256, EMA 0.9999, no
clipping; 250 ancestral steps with guidance 1.5 of three channels. Published: FID 2.27
after 7,000,000 steps with that guidance, 9.62 without (paper, table 2). How it was
evaluated: docs/evaluation.md.

Chosen here: images are encoded before, each and its mirror image, of which one is drawn
from, so that training sees what it sees of images. Not run here. docs/pods.md has it
from the archive of images on, and compiled for TPU slices.
"""

from jdit.data import Encoded
from jdit.guidance import CFG
from jdit.models import dit
from jdit.objectives import DenoisingVLB
from jdit.processes import DDPMLinear, Gaussian, LearnedRange
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DDPM, Respaced


def recipe() -> Recipe:
    return Recipe(
        name="dit-xl-2",
        model=dit("XL", 2),
        data=Encoded("data/imagenet256-sd"),
        process=Gaussian(DDPMLinear(), "noise"),
        objective=DenoisingVLB(),
        training=Training(
            steps=7_000_000,
            batch=256,
            clip=None,
            ema=(0.9999,),
            ema_warmup=False,
            checkpoint_every=50_000,
        ),
        sampling=Sampling(
            solver=DDPM(LearnedRange()),
            grid=Respaced(),
            steps=250,
            guidance=CFG(1.5, channels=3),
            batch=32,
        ),
    )
