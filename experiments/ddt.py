# SPDX-License-Identifier: Apache-2.0
"""DDT-XL/2 (22En6De) on ImageNet 256 in Stable Diffusion's latents.

    jdit train ddt

Wang et al., 2025, "DDT: Decoupled Diffusion Transformer". From the published
configuration (configs/repa_improved_ddt_xlen22de6_256.yaml): AdamW with 1e-4 and betas
0.9 and 0.95, logit-normal times, averages with 0.9999, 256 images a step (16 on each of
16 devices is our reading of it), up to 4,000,000 steps; sampling with 250 Euler steps,
the last of 0.04, guidance 2 at times up to 0.7. It also aligns layer 8 with DINOv2
(weight 0.5), which is left out here. FID 1.26 there, after 400 epochs and with
alignment. Not run here.

Faster sampling: `SharedEncoder(every(3, 250))` inside of the guidance, or the steps of
`sharing_steps` (`jdit.wrappers`).
"""

from jdit.data import Encoded
from jdit.guidance import CFG
from jdit.models.ddt import ddt
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Uniform


def recipe() -> Recipe:
    return Recipe(
        name="ddt-xl-2",
        model=ddt("XL", dtype="bfloat16", remat="dots"),
        data=Encoded("data/imagenet256-sd"),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=4_000_000,
            batch=256,
            learning_rate=1e-4,
            betas=(0.9, 0.95),
            clip=None,
            ema=(0.9999,),
            checkpoint_every=10_000,
        ),
        sampling=Sampling(
            solver=Euler(),
            grid=Uniform(last=0.04),
            steps=250,
            guidance=CFG(2.0, interval=(0.0, 0.7)),
        ),
    )
