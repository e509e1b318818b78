# SPDX-License-Identifier: Apache-2.0
"""RAE's wide head (DiT-DH-XL) on ImageNet 256 in the latents of DINOv2-B.

    jdit train rae

Zheng et al., 2025, "Diffusion Transformers with Representation Autoencoders". From the
published configuration (configs/stage2/training/ImageNet256/DiTDH-XL_DINOv2-B.yaml):
1,024 images a step, AdamW with 2e-4 and betas 0.9 and 0.95, a warm-up of 40 epochs
(50,000 steps) and a fall to 2e-5, averages with 0.9995, gradients clipped at 1;
logit-normal times, shifted by sqrt(768 * 16 * 16 / 4096) = 6.93 as is the sampling grid
of 50 Euler steps, without guidance. The published rate warms up from 2e-4 to itself and
falls linearly to epoch 800; here it falls along a cosine over all of 1,400 epochs.

Data: 768 x 16 x 16 tokens of DINOv2-B with registers, normalised per channel by "shift"
and "scale" in the file. Not run here.
"""

from math import sqrt

from jdit.data import Latents
from jdit.models.ddt import dit_dh
from jdit.objectives import Denoising, LogitNormal
from jdit.objectives import Shifted as ShiftedTime
from jdit.processes import Gaussian, Linear
from jdit.recipe import Cosine, Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted

SHIFT = sqrt(768 * 16 * 16 / 4096)


def recipe() -> Recipe:
    return Recipe(
        name="rae-dit-dh-xl",
        model=dit_dh("XL", dtype="bfloat16", remat="dots"),
        data=Latents("data/imagenet256-dinov2-b.safetensors"),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=ShiftedTime(LogitNormal(), SHIFT)),
        training=Training(
            steps=1_750_000,
            batch=1024,
            learning_rate=2e-4,
            warmup=50_000,
            schedule=Cosine(0.1),
            betas=(0.9, 0.95),
            clip=1.0,
            ema=(0.9995,),
            checkpoint_every=25_000,
        ),
        sampling=Sampling(solver=Euler(), grid=Shifted(SHIFT), steps=50, guidance=None),
    )
