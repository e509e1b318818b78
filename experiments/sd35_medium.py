# SPDX-License-Identifier: Apache-2.0
"""SD3.5-medium: SD3 with normalised queries and keys and 13 dual layers.

    jdit train sd35_medium --data.path captioned.safetensors

Stability AI, 2024: the network of Stability-AI/sd3.5 (mmditx.py), at 1024 pixels. The
model card says that training grew from 256 over 512, 768 and 1024 to 1440 pixels, with
positions of 384 x 384 and random crops of them. No other number of the training is
published, so all of them are SD3's (`experiments/sd3.py`), with times shifted by 3 for
16 times as many tokens as at 256 pixels, as the paper does at 1024. The
random crop of positions is left out: the middle is used.

Data: as for sd3, at 128 x 128 latents. Not run here at this size.
"""

from dataclasses import replace

from experiments.sd3 import recipe as first_stage
from jdit.models.mmdit import sd35_medium
from jdit.objectives import Denoising, LogitNormal
from jdit.objectives import Shifted as ShiftedTime
from jdit.recipe import Recipe
from jdit.solvers import Shifted


def recipe() -> Recipe:
    first = first_stage()
    return replace(
        first,
        name="sd35-medium",
        model=sd35_medium(dtype="bfloat16", remat="block"),
        objective=Denoising(times=ShiftedTime(LogitNormal(), 3.0)),
        sampling=replace(first.sampling, grid=Shifted(3.0), steps=40),
    )
