# SPDX-License-Identifier: Apache-2.0
"""LightningDiT-XL/1 on ImageNet 256 in the latents of the VA-VAE.

    jdit train lightning_dit

Yao et al., 2025, "Reconstruction vs. Generation". From the published configuration
(configs/lightningdit_xl_vavae_f16d32.yaml): 80,000 steps of 1,024 images (64 epochs,
FID 2.11 there), AdamW with 2e-4 and betas 0.9 and 0.95, logit-normal times; sampling
with 249 Euler steps, times shifted by 0.3 (counted from noise; 10/3 here), guidance of
three channels by 10 at times up to 0.89. The published loss adds the cosine of
prediction and target, which is left out here; the published code averages with 0.9999.

Data: 32 x 16 x 16 latents, normalised per channel by "shift" and "scale" in the file,
as LightningDiT's extract_features.py stores their statistics. Not run here.
"""

from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.lightning_dit import lightning_dit
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted


def recipe() -> Recipe:
    return Recipe(
        name="lightning-dit-xl-1",
        model=lightning_dit("XL", dtype="bfloat16", remat="dots"),
        data=Latents("data/imagenet256-vavae.safetensors"),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=80_000,
            batch=1024,
            learning_rate=2e-4,
            betas=(0.9, 0.95),
            clip=None,
            ema=(0.9999,),
            flip=False,
            checkpoint_every=20_000,
        ),
        sampling=Sampling(
            solver=Euler(),
            grid=Shifted(10 / 3),
            steps=249,
            guidance=CFG(10.0, interval=(0.0, 0.89), channels=3),
        ),
    )
