# SPDX-License-Identifier: Apache-2.0
"""LTX-Video, 1.9 B: 121 frames of 512 x 768 pixels, from captioned videos.

    jdit train ltx_video --data.path videos.safetensors

HaCohen et al., 2024, "LTX-Video: Realtime Video Latent Diffusion". From the paper: the
straight path, logit-normal times that are shifted by the number of tokens, T5-XXL's
tokens, latents of the paper's codec (8 x 32 x 32 pixels to 128 channels, each a token,
normalised by channel), 5 seconds at 24 frames a second, AdamW. From the published
scheduler: the shift is exp(mu) with mu on a line through 0.95 at 1,024 tokens and 2.05
at 4,096, so exp(2.78) = 16.2 for the 6,144 here, and the sampler's times are then
stretched to end at 0.1. From the authors' configuration of 0.9: guidance 3, 40 steps.

Chosen here: one stage at one size, where the paper mixes sizes and lengths and drops
tokens to equal their number, and none of its training on a known first frame, which
needs a time for each token; the shift of the sampler for training as well; 128 tokens
of text; 1e-4, 64 videos a step, 100,000 steps with 1,000 of warm-up; text dropped 10%
of the time; EMA 0.9999.

Data: "x_0" of 16 x 16 x 24 x 128 normalised latents, "text" of 128 tokens of 4,096,
"mask" of the real ones. Not run here at this size.
"""

from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.ltx_video import ltx_video_2b
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted, Stretched
from jdit.tokens.fractional import Fractional


def recipe() -> Recipe:
    return Recipe(
        name="ltx-video-2b",
        model=ltx_video_2b(
            grid=(16, 16, 24),
            positions=Fractional(frame_rate=24.0),
            dtype="bfloat16",
            remat="block",
        ),
        data=Latents("videos.safetensors", conditions=("text", "mask")),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=LogitNormal(mean=2.78)),
        training=Training(
            steps=100_000, batch=64, learning_rate=1e-4, warmup=1000, ema=(0.9999,)
        ),
        sampling=Sampling(
            solver=Euler(),
            grid=Stretched(0.1, Shifted(16.2)),
            steps=40,
            guidance=CFG(3.0),
            batch=1,
        ),
    )
