# SPDX-License-Identifier: Apache-2.0
"""Flag-DiT 600M on ImageNet at 256 pixels, told by classes.

    jdit train flag_dit_imagenet

Gao et al., 2024, "Lumina-T2X". From the published code (Flag-DiT-ImageNet, train.py and
exps/600M_bs256_lr5e-4_bf16_qknorm_lognorm.sh): normalised queries and keys, 256 images
a step, AdamW with a constant rate of 5e-4 and no weight decay, gradients clipped at 2,
classes dropped with probability 0.1, EMA 0.9999, logit-normal times, latents of Stable
Diffusion's autoencoder (ema), mirrored images. Its README's FID of 2.40 is of 900,000
steps, which are taken here; the script allows 3,000,000.

From its sampler (Next-DiT-ImageNet, sample.py): guidance 4 of three channels, on times
that are not shifted; how images were drawn for the FID is not published. Chosen here:
250 Euler steps in the place of an adaptive solver.

Data: as docs/pods.md encodes them. Not run here.
"""

from jdit.data import Encoded
from jdit.guidance import CFG
from jdit.models.lumina_labels import flag_dit_labels
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler


def recipe() -> Recipe:
    return Recipe(
        name="flag-dit-imagenet-600m",
        model=flag_dit_labels("600M", dtype="bfloat16", remat="dots"),
        data=Encoded("data/imagenet256-sd"),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=900_000, batch=256, learning_rate=5e-4, clip=2.0, ema=(0.9999,)
        ),
        sampling=Sampling(solver=Euler(), steps=250, guidance=CFG(4.0, channels=3)),
    )
