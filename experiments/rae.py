# SPDX-License-Identifier: Apache-2.0
"""RAE's wide head (DiT-DH-XL) on ImageNet 256 in the latents of DINOv2-B.

    jdit train rae

Zheng et al., 2025, "Diffusion Transformers with Representation Autoencoders". From the
published configuration (configs/stage2/training/ImageNet256/DiTDH-XL_DINOv2-B.yaml):
1,024 images a step, AdamW with betas 0.9 and 0.95 at 2e-4 for 40 epochs, from there
linearly to 2e-5 at epoch 800, and so to epoch 1,400; averages with 0.9995, gradients
clipped at 1; logit-normal times, shifted by sqrt(768 * 16 * 16 / 4096) = 6.93. So is
the grid of sampling, 50 times from 1 to 0.001, 0.0069 when shifted, between which the
published code makes 49 Euler steps, without guidance, and calls what it holds at the
last one an image; here the 49th step goes on to 0, from the same prediction.

Data: 768 x 16 x 16 tokens of DINOv2-B with registers, as `jdit encode` makes them by a
codec with the published statistics (`load_rae` reads the authors' files, `save_codec`
writes the folder that it takes): 1 TB in float16 with the mirror images, where the
published code encodes in training. Not run here.
"""

from dataclasses import dataclass
from math import sqrt

import jax.numpy as jnp

from jdit.data import Encoded
from jdit.models.ddt import dit_dh
from jdit.objectives import Denoising, LogitNormal
from jdit.objectives import Shifted as ShiftedTime
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted, Uniform
from jdit.typing import Array, Float

SHIFT = sqrt(768 * 16 * 16 / 4096)
EPOCHS, STEPS = 1400, 1250


@dataclass(frozen=True)
class Fall:
    """1 up to `begin`, then linearly to `final` at `end`, shares of the training."""

    begin: float = 40 / EPOCHS
    end: float = 800 / EPOCHS
    final: float = 0.1

    def __call__(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        done = (progress - self.begin) / (self.end - self.begin)
        return 1 - (1 - self.final) * jnp.clip(done, 0.0, 1.0)


def recipe() -> Recipe:
    return Recipe(
        name="rae-dit-dh-xl",
        model=dit_dh("XL", dtype="bfloat16", remat="dots"),
        data=Encoded("data/imagenet256-dinov2-b"),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=ShiftedTime(LogitNormal(), SHIFT)),
        training=Training(
            steps=EPOCHS * STEPS,
            batch=1024,
            learning_rate=2e-4,
            schedule=Fall(),
            betas=(0.9, 0.95),
            clip=1.0,
            ema=(0.9995,),
            checkpoint_every=25_000,
        ),
        sampling=Sampling(
            solver=Euler(),
            grid=Shifted(SHIFT, Uniform(least=0.001)),
            steps=49,
            guidance=None,
        ),
    )
