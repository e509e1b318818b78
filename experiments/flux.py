# SPDX-License-Identifier: Apache-2.0
"""Flux.1's network, from scratch on captioned images at 512 pixels.

    jdit train flux --data.path captioned.safetensors

Black Forest Labs, 2024: black-forest-labs/flux publishes the network and the sampler of
two distilled models, and nothing of their training or of the model they come from. So
the network is the published one without the guidance that distillation adds
(`flux_schnell`), and everything else is SD3's recipe (`experiments/sd3.py`): straight
paths, logit-normal times, AdamW at 1e-4. From the published sampler: times shifted by
exp(mu), with mu on a line through 0.5 at 256 tokens and 1.15 at 4,096, which gives
exp(0.63) = 1.88 for the 1,024 tokens here. Chosen: batch and steps.

Data: "x_0", moments of the 16-channel autoencoder (shift 0.1159, scale 0.3611), and
precomputed "text" (256 tokens of 4,096 of T5-XXL) and "pooled" (768, of CLIP-L). Not
run here at this size.
"""

from dataclasses import replace

from experiments.sd3 import recipe as sd3
from jdit.data import Latents, PosteriorSample
from jdit.models.flux import flux_schnell
from jdit.recipe import Recipe
from jdit.solvers import Shifted


def recipe() -> Recipe:
    first = sd3()
    return replace(
        first,
        name="flux",
        model=flux_schnell(grid=(64, 64), dtype="bfloat16", remat="block"),
        data=Latents(
            "captioned.safetensors",
            shift=0.1159,
            scale=0.3611,
            posterior=PosteriorSample(),
            conditions=("text", "pooled"),
        ),
        training=replace(first.training, steps=250_000, batch=1024),
        sampling=replace(first.sampling, grid=Shifted(1.88)),
    )
