# SPDX-License-Identifier: Apache-2.0
"""DiT-XL/2 on ImageNet 256 in Stable Diffusion's latents (Peebles and Xie, 2023).

    jdit train dit_imagenet --data.path latents.npz
    jdit compile dit_imagenet --topology v5e:16x16

From the paper (section 4) and the published code (train.py): DDPM's linear schedule of
1,000 steps, noise prediction with learned variance, AdamW at a constant 1e-4 without
decay or warm-up, batches of 256, EMA 0.9999, labels dropped with 0.1. Published: FID
19.47 without guidance at 400,000 steps, 2.27 at 7,000,000 with guidance 1.5; 250
ancestral steps. There images are mirrored before they are encoded: write latents of
both kinds.

Chosen here: bfloat16, and layers computed again in the backward pass. Not run here.
"""

from jdit.data import Latents, PosteriorSample
from jdit.guidance import CFG
from jdit.models import dit
from jdit.objectives import DenoisingVLB
from jdit.processes import DDPMLinear, Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DDPM


def recipe() -> Recipe:
    return Recipe(
        name="dit-xl-2",
        model=dit("XL", dtype="bfloat16", remat="block"),
        data=Latents("latents.npz", scale=0.18215, posterior=PosteriorSample()),
        process=Gaussian(DDPMLinear(), "noise"),
        objective=DenoisingVLB(),
        training=Training(
            steps=400_000,
            batch=256,
            learning_rate=1e-4,
            betas=(0.9, 0.999),
            clip=None,
            ema=(0.9999,),
            ema_warmup=False,
            flip=False,
        ),
        sampling=Sampling(
            solver=DDPM(), steps=250, guidance=CFG(1.5, channels=3), batch=256
        ),
    )
