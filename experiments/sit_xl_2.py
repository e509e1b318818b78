# SPDX-License-Identifier: Apache-2.0
"""SiT-XL/2 on ImageNet 256: DiT's network, a linear path and its velocity.

    jdit train sit_xl_2    # on latents that `jdit encode` wrote

Ma et al., 2024. From the published code (train.py, sample_ddp.py, transport/): Stable
Diffusion's autoencoder, uniform times, AdamW at a constant 1e-4 without decay, batches
of 256, EMA 0.9999, no clipping; sampling by the SDE, Euler-Maruyama with w = sigma in
250 steps of which the last is 0.04 long and adds no noise, guidance 1.5 of three
channels. Published: FID 2.06 after 7,000,000 steps. The code's default is another
sampler, dopri5 without guidance. How it was evaluated: docs/evaluation.md.

The network gives 8 channels as the published weights do, of which 4 are not used.
Data and averages are those of `experiments/dit_xl_2.py`. Not run here. docs/pods.md has
it from the archive of images on, and compiled for TPU slices.
"""

from dataclasses import replace

from experiments.dit_xl_2 import recipe as dit_xl_2
from jdit.models import sit
from jdit.objectives import Denoising
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe
from jdit.solvers import EulerMaruyama, Uniform


def recipe() -> Recipe:
    first = dit_xl_2()
    return replace(
        first,
        name="sit-xl-2",
        model=sit("XL", 2, out_channels=8),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(),
        sampling=replace(
            first.sampling, solver=EulerMaruyama(), grid=Uniform(last=0.04)
        ),
    )
