# SPDX-License-Identifier: Apache-2.0
"""CogVideoX-2B: 49 frames of 480 x 720 pixels, from captioned videos.

    jdit train cogvideox --data.path videos.safetensors

Yang et al., 2024, "CogVideoX: Text-to-Video Diffusion Models with An Expert
Transformer". From the paper and the published configuration: the 2B transformer with
sines and cosines that are added, T5-XXL's 226 tokens, latents of the 3-d causal codec
(4 x 8 x 8 pixels to 16 channels, times 1.15258426), prediction of v on Stable
Diffusion's chain with its signal-to-noise ratio shifted by 3 and zero at the end, 50
steps with guidance 6.

Chosen here: one stage at the final size, where the paper goes from 256 pixels upwards
and mixes images and videos of all lengths; 64 videos a step, 100,000 steps at 1e-4
after 1,000 of warm-up, decay 1e-4; text dropped 10% of the time; EMA 0.9999; times
drawn uniformly, where the paper spreads them evenly over the devices (its explicit
uniform sampling); DDIM and constant guidance where the published sampler varies it.

Data: "x_0" of 13 x 60 x 90 x 16 latents, and "text" of 226 tokens of 4,096. Not run
here at this size.
"""

from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.cogvideox import cogvideox_2b
from jdit.objectives import Denoising
from jdit.processes import Gaussian, ZeroTerminal
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DDIM, Trailing


def recipe() -> Recipe:
    return Recipe(
        name="cogvideox-2b",
        model=cogvideox_2b(dtype="bfloat16", remat="block"),
        data=Latents("videos.safetensors", scale=1.15258426, conditions=("text",)),
        process=Gaussian(ZeroTerminal(shift=3.0), "v"),
        objective=Denoising(),
        training=Training(
            steps=100_000,
            batch=64,
            learning_rate=1e-4,
            weight_decay=1e-4,
            warmup=1000,
            ema=(0.9999,),
        ),
        sampling=Sampling(
            solver=DDIM(), grid=Trailing(), steps=50, guidance=CFG(6.0), batch=1
        ),
    )
