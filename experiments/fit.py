# SPDX-License-Identifier: Apache-2.0
"""FIT, interleaved local and global layers, on pixels of ImageNet (Chen and Li, 2023).

    jdit train fit --data.path imagenet/train

From the published code (google-research/pix2seq): the network; noise prediction under
the cosine schedule; and, from its configuration of RIN (Jabri et al., 2023) for
ImageNet (configs/config_diffusion_imagenet64.py), which the same trainer trains, widths
512 of tokens and 768 of latents with 16 heads, patches of 8, 150,000 steps of
1,024 images, 10,000 steps of warm-up, weight decay 0.01, gradients clipped at 1, EMA
0.9999, mirrored images, latents carried on for 9 of 10 examples, no labels dropped, and
sampling without guidance by 250 steps of DDPM with the large variance. RIN trains on
gamma that falls linearly, and samples on the cosine schedule; here both are cosine.

Chosen here, because no configuration of FIT is published and the paper's tables could
not be read: 256 pixels, 16 groups with 16 latents each, and layers (4)4(4)4(4)4(4)4(4).
RIN's run uses LAMB with rate 2e-3 and a cosine after 70% of the steps; AdamW with
rate 3e-4 and a cosine of the whole run stand for it.
"""

from jdit.conditioning import Labels
from jdit.data import ImageFolder
from jdit.models import fit
from jdit.objectives import SelfConditioned
from jdit.processes import FixedLarge, Gaussian, VPCosine
from jdit.recipe import Cosine, Recipe, Sampling, Training
from jdit.solvers import DDPM
from jdit.wrappers import Carried


def recipe() -> Recipe:
    model = fit(dtype="bfloat16", remat="block", conditioning=Labels(1000, 0.0))
    return Recipe(
        name="fit-256",
        model=model,
        data=ImageFolder("imagenet/train", 256),
        process=Gaussian(VPCosine(2e-4), "noise"),
        objective=SelfConditioned(model.carried, rate=0.9),
        training=Training(
            steps=150_000,
            batch=1024,
            learning_rate=3e-4,
            warmup=10_000,
            schedule=Cosine(),
            weight_decay=0.01,
            clip=1.0,
            ema=(0.9999,),
            flip=True,
        ),
        sampling=Sampling(
            solver=DDPM(FixedLarge(), 1.0), steps=250, guidance=Carried(), batch=32
        ),
    )
