# SPDX-License-Identifier: Apache-2.0
"""SD3 at depth 24 (2 B), 256 pixels, from scratch on captioned images.

    jdit train sd3 --data.path captioned.safetensors

Esser et al., 2024, "Scaling Rectified Flow Transformers for High-Resolution Image
Synthesis". From the paper: depth 24 and width 64 * 24, 16-channel latents, straight
paths with logit-normal times of mean 0 and scale 1, batches of 4,096 at 256 pixels,
500,000 steps, AdamW at 1e-4 after 1,000 steps of warm-up, 154 tokens of text (77 of
CLIP, 77 of T5).

Chosen here: weight decay 0, EMA 0.9999, guidance 5 and 28 Euler steps with the shift 3
that the published sampler uses at 1024 pixels; the text of an image is dropped as a
whole, 10% of the time, where the paper drops each of its three encoders at 46.4%. At
256 pixels the table of positions has one unit a token; the paper squeezes its higher
resolutions into the same units.

Data: "x_0", moments of the 16-channel autoencoder, and precomputed "text" (154 tokens
of 4,096) and "pooled" (2,048). Not run here at this size.
"""

from jdit.data import Latents, PosteriorSample
from jdit.guidance import CFG
from jdit.models.mmdit import sd3
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted


def recipe() -> Recipe:
    return Recipe(
        name="sd3",
        model=sd3(
            24,
            grid=(32, 32),
            max_size=192,
            spacing=1.0,
            dtype="bfloat16",
            remat="block",
        ),
        data=Latents(
            "captioned.safetensors",
            shift=0.0609,
            scale=1.5305,
            posterior=PosteriorSample(),
            conditions=("text", "pooled"),
        ),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=500_000,
            batch=4096,
            learning_rate=1e-4,
            warmup=1000,
            ema=(0.9999,),
        ),
        sampling=Sampling(
            solver=Euler(), grid=Shifted(3.0), steps=28, guidance=CFG(5.0)
        ),
    )
