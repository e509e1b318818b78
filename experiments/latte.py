# SPDX-License-Identifier: Apache-2.0
"""Latte-XL/2 on FaceForensics' videos: 16 frames of 256 pixels, unconditional.

    jdit train latte --data.path videos.npz

Ma et al., 2024, "Latte". From the published configuration (configs/ffs/ffs_train.yaml)
and code: Stable Diffusion's autoencoder times 0.18215, frame by frame; the 1,000 steps
and the learned variance of Improved DDPM; AdamW with a rate of 1e-4 and no decay,
gradients clipped at 0.1, a million steps at most, EMA 0.9999, 250 ancestral steps.

Chosen here: 40 videos a step, where the configuration tells 5 a device and not their
number; gradients are clipped from the first step on, where it starts at 20,000.

Data: "x_0" of 16 x 32 x 32 latents. UCF-101's model is told one of 101 labels:
`latte("XL", conditioning=Labels(101))`. Not run here at this size.
"""

from jdit.data import Latents
from jdit.models.latte import latte
from jdit.objectives import DenoisingVLB
from jdit.processes import DDPMLinear, Gaussian, LearnedRange
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DDPM, Respaced


def recipe() -> Recipe:
    return Recipe(
        name="latte-xl-2",
        model=latte("XL", dtype="bfloat16", remat="block"),
        data=Latents("videos.npz", scale=0.18215),
        process=Gaussian(DDPMLinear(), "noise"),
        objective=DenoisingVLB(),
        training=Training(
            steps=1_000_000, batch=40, learning_rate=1e-4, clip=0.1, ema=(0.9999,)
        ),
        sampling=Sampling(
            solver=DDPM(LearnedRange()),
            grid=Respaced(),
            steps=250,
            guidance=None,
            batch=8,
        ),
    )
