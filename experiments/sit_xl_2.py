# SPDX-License-Identifier: Apache-2.0
"""SiT-XL/2 on ImageNet 256: DiT's network, a linear path and its velocity.

    jdit train sit_xl_2 --data.path latents.npz

Ma et al., 2024. From the published code (train.py, sample_ddp.py, transport/): Stable
Diffusion's autoencoder, uniform times, AdamW at a constant 1e-4 without decay, batches
of 256, EMA 0.9999, no clipping; sampling by the SDE, Euler-Maruyama with w = sigma in
250 steps of which the last is 0.04 long and adds no noise, guidance 1.5 of three
channels. Published: FID 2.06 after 7,000,000 steps. The code's default is another
sampler, dopri5 without guidance. How it was evaluated: docs/evaluation.md.

The network gives 8 channels as the published weights do, of which 4 are not used.
Chosen here: images are encoded before, so they are not flipped in training. Not run
here. docs/pods.md has it compiled for TPU slices.
"""

from jdit.data import Latents, PosteriorSample
from jdit.guidance import CFG
from jdit.models import sit
from jdit.objectives import Denoising
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import EulerMaruyama, Uniform


def recipe() -> Recipe:
    return Recipe(
        name="sit-xl-2",
        model=sit("XL", 2, out_channels=8),
        data=Latents("latents.npz", scale=0.18215, posterior=PosteriorSample()),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(),
        training=Training(
            steps=7_000_000,
            batch=256,
            clip=None,
            ema=(0.9999,),
            ema_warmup=False,
            checkpoint_every=50_000,
        ),
        sampling=Sampling(
            solver=EulerMaruyama(),
            grid=Uniform(last=0.04),
            steps=250,
            guidance=CFG(1.5, channels=3),
            batch=32,
        ),
    )
