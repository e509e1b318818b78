# SPDX-License-Identifier: Apache-2.0
"""Lumina-T2I: the 5B Flag-DiT at 1,024 pixels with Llama 2's tokens.

    jdit train lumina_t2x

Gao et al., 2024, "Lumina-T2X". From the paper and its published code (lumina_t2i): the
linear path with a velocity, uniform times, 512 images a step, AdamW with a constant
rate of 1e-4 and no weight decay, gradients clipped at 2, captions dropped with
probability 0.1, EMA 0.9999 (train.py and exps/5B_bs512_lr1e-4_bf16_1024px_sdxlvae.sh);
guidance 4 and 60 Euler steps on times shifted by 4 (configs/infer/settings.yaml). The
published model has twice the output channels and trains the first half.

Chosen here: 100,000 steps in one stage. The published runs go from 256 to 512 to 1,024
pixels, each from the weights of the one before, on 14M private pairs; their lengths are
not published in steps.

Data: moments "x_0" of SDXL's autoencoder, and precomputed "text" (128 tokens of 4,096,
Llama 2 7B) and "mask". Not run here.
"""

from jdit.data import Latents, PosteriorSample
from jdit.guidance import CFG
from jdit.models.lumina import flag_dit
from jdit.objectives import Denoising
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted


def recipe() -> Recipe:
    return Recipe(
        name="lumina-t2i-5b",
        model=flag_dit(dtype="bfloat16", remat="block"),
        data=Latents(
            "captioned.safetensors",
            scale=0.13025,
            posterior=PosteriorSample(),
            conditions=("text", "mask"),
        ),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(),
        training=Training(
            steps=100_000, batch=512, learning_rate=1e-4, clip=2.0, ema=(0.9999,)
        ),
        sampling=Sampling(
            solver=Euler(), grid=Shifted(4.0), steps=60, guidance=CFG(4.0, channels=3)
        ),
    )
