# SPDX-License-Identifier: Apache-2.0
"""PixArt-alpha XL/2 at 256 pixels, from scratch on captioned images.

    jdit train pixart_alpha --data.path captioned.safetensors

Chen et al., 2023, "PixArt-alpha". From the paper and its published configuration
(PixArt_xl2_internal.py, PixArt_xl2_img256_internal.py): 120 tokens of T5-XXL, latents
of Stable Diffusion's autoencoder times 0.18215, the 1,000 steps and the learned
variance of Improved DDPM, AdamW with weight decay 0.03 and a rate of 2e-5 after 1,000
steps of warm-up, 176 images a device, gradients clipped at 0.01, captions dropped with
probability 0.1, EMA 0.9999, 20 steps of DPM-Solver, guidance 4.5.

Chosen here: 64 devices and 150,000 steps (the configuration counts epochs of a private
data set). The paper starts this stage from a class-conditional model:
`jdit.models.from_class_conditional` makes that start of a published DiT, and
`--training.start` takes it. Higher resolutions go on from here, as
`pixart_alpha(512)` and `pixart_alpha(1024)`.

Data: moments "x_0", and precomputed "text" (120 tokens of 4,096) and "mask". Not run
here at this size.
"""

from jdit.data import Latents, PosteriorSample
from jdit.guidance import CFG
from jdit.models.pixart import pixart_alpha
from jdit.objectives import DenoisingVLB
from jdit.processes import DDPMLinear, Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DPMSolverPP2M


def recipe() -> Recipe:
    return Recipe(
        name="pixart-alpha-256",
        model=pixart_alpha(256, dtype="bfloat16", remat="block"),
        data=Latents(
            "captioned.safetensors",
            scale=0.18215,
            posterior=PosteriorSample(),
            conditions=("text", "mask"),
        ),
        process=Gaussian(DDPMLinear(), "noise"),
        objective=DenoisingVLB(),
        training=Training(
            steps=150_000,
            batch=64 * 176,
            learning_rate=2e-5,
            warmup=1000,
            weight_decay=0.03,
            clip=0.01,
            ema=(0.9999,),
        ),
        sampling=Sampling(solver=DPMSolverPP2M(), steps=20, guidance=CFG(4.5)),
    )
