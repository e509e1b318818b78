# SPDX-License-Identifier: Apache-2.0
"""DiMR-XL/2R on ImageNet's latents (Liu et al., 2024, "Alleviating Distortion").

    jdit train dimr    # on latents that `jdit encode` wrote

From the published configuration (DiMR-XL-2R_imagenet256), which trains as U-ViT does:
Stable Diffusion's autoencoder and schedule, noise prediction at both resolutions with
weights 1/4 and 1, 1,000,000 steps of 1,024 images, AdamW with betas (0.99, 0.99), rate
2e-4 after 5,000 steps of warm-up, weight decay 0.03, EMA 0.9999, labels dropped with
probability 0.1, 250 sampling steps, guidance 0.4 beyond the conditional prediction.
Published result: FID 1.70.

Chosen here: DPM-Solver++ of order 2 stands for DPM-Solver of order 3. The published
optimizer decays all parameters but those that tell how fast the norms change with
time; here only kernels are decayed.
"""

from jdit.data import Encoded
from jdit.guidance import CFG
from jdit.models import dimr
from jdit.objectives import DiscreteTime, Pyramid
from jdit.processes import DDPMScaledLinear, Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DPMSolverPP2M


def recipe() -> Recipe:
    return Recipe(
        name="dimr-xl-2r",
        model=dimr("XL", dtype="bfloat16", remat="block"),
        data=Encoded("data/imagenet256-sd"),
        process=Gaussian(DDPMScaledLinear(), "noise"),
        objective=Pyramid(times=DiscreteTime()),
        training=Training(
            steps=1_000_000,
            batch=1024,
            learning_rate=2e-4,
            warmup=5000,
            betas=(0.99, 0.99),
            weight_decay=0.03,
            clip=None,
            ema=(0.9999,),
        ),
        sampling=Sampling(
            solver=DPMSolverPP2M(), steps=250, guidance=CFG(1.4), batch=50
        ),
    )
