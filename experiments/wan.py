# SPDX-License-Identifier: Apache-2.0
"""Wan 2.1 text-to-video, 1.3 B: 81 frames of 480 x 832 pixels, from captioned videos.

    jdit train wan --data.path videos.safetensors

Wan Team, 2025, "Wan: Open and Advanced Large-Scale Video Generative Models". From the
paper and its code: the straight path, umT5's tokens (512, zero vectors behind the
prompt's end), latents of Wan's causal codec (4 x 8 x 8 pixels to 16 channels,
normalised by channel), logit-normal times (as two papers that follow it quote). Not
checked against the report's text: AdamW at 1e-4 with decay 1e-3 in bfloat16. Sampling
as the authors' README advises for this size: guidance 6 and times shifted by 8, 50
steps; guidance is towards a negative prompt ("negative").

Chosen here: one stage at the final size, where the paper first learns 256-pixel images
and then images and five-second videos at 192 to 256, 480 and 720 pixels; 64 videos a
step, 100,000 steps with 1,000 of warm-up, a constant rate, where the paper lowers it as
its metrics level off; text dropped 10% of the time; EMA 0.9999; Euler where the authors
use UniPC.

Data: "x_0" of 21 x 60 x 104 x 16 normalised latents, "text" of up to 512 tokens of
4,096, "mask" of the real ones. Not run here at this size.
"""

from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.wan import wan_1b
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted


def recipe() -> Recipe:
    return Recipe(
        name="wan-1b",
        model=wan_1b(dtype="bfloat16", remat="block"),
        data=Latents("videos.safetensors", conditions=("text", "mask")),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=100_000,
            batch=64,
            learning_rate=1e-4,
            weight_decay=1e-3,
            warmup=1000,
            ema=(0.9999,),
        ),
        sampling=Sampling(
            solver=Euler(), grid=Shifted(8.0), steps=50, guidance=CFG(6.0), batch=1
        ),
    )
