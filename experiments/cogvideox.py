# SPDX-License-Identifier: Apache-2.0
"""CogVideoX-2B: 49 frames of 480 x 720 pixels, from captioned videos.

    jdit train cogvideox --data.path videos.safetensors

Yang et al., 2024, "CogVideoX: Text-to-Video Diffusion Models with An Expert
Transformer". From the paper and the published configuration: the 2B transformer with
sines and cosines that are added, T5-XXL's 226 tokens, latents of the 3-d causal codec
(4 x 8 x 8 pixels to 16 channels, times 1.15258426), prediction of v on Stable
Diffusion's chain with its signal-to-noise ratio shifted by 3 and zero at the end; text
dropped 10% of the time; AdamW with betas 0.9 and 0.95, decay 1e-4, gradients clipped at
1 and a cosine to the end; 1,000 videos a step for 220,000 steps, the paper's second
stage (tables 5 and 6); 50 steps with guidance 6.

Chosen here: the peak rate, 1e-4 after 1,000 steps of warm-up, which is not published;
one stage, where the paper comes from 400,000 steps of 2,000 videos of 256 x 384 pixels
and goes on to 768 x 1,360, and mixes images and videos of all lengths; EMA 0.9999;
indices drawn uniformly, where the paper spreads them evenly over the devices (its
explicit uniform sampling); DDIM and constant guidance where the published sampler is
DPM-Solver++ with noise, and varies it.

Data: "x_0" of 13 x 60 x 90 x 16 latents, and "text" of 226 tokens of 4,096. Not run
here at this size.
"""

from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.cogvideox import cogvideox_2b
from jdit.objectives import Denoising, DiscreteTime
from jdit.processes import Gaussian, ZeroTerminal
from jdit.recipe import Cosine, Recipe, Sampling, Training
from jdit.solvers import DDIM, Trailing


def recipe() -> Recipe:
    return Recipe(
        name="cogvideox-2b",
        model=cogvideox_2b(dtype="bfloat16", remat="block"),
        data=Latents("videos.safetensors", scale=1.15258426, conditions=("text",)),
        process=Gaussian(ZeroTerminal(shift=3.0), "v"),
        objective=Denoising(times=DiscreteTime()),
        training=Training(
            steps=220_000,
            batch=1000,
            learning_rate=1e-4,
            schedule=Cosine(),
            betas=(0.9, 0.95),
            weight_decay=1e-4,
            warmup=1000,
            ema=(0.9999,),
        ),
        sampling=Sampling(
            solver=DDIM(), grid=Trailing(), steps=50, guidance=CFG(6.0), batch=1
        ),
    )
