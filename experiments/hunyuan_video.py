# SPDX-License-Identifier: Apache-2.0
"""HunyuanVideo, 12.8 B: 129 frames of 720 x 1,280 pixels, from captioned videos.

    jdit train hunyuan_video --data.path videos.safetensors

Kong et al., 2024, "HunyuanVideo: A Systematic Framework For Large Video Generative
Models". From the paper and its code: the straight path with logit-normal times, latents
of the paper's causal codec (4 x 8 x 8 pixels to 16 channels), text of a multimodal
language model (256 tokens, refined) and CLIP's pooled vector, sampling with times
shifted by 7 and 50 steps. The published weights are distilled for guidance, which they
are told (6); the model here is the one before that, so it is guided by 6.

Chosen here: one stage at the final size, where the paper first learns images of 256 and
512 pixels and then images and videos of growing size and length; AdamW at 1e-4, 64
videos a step, 100,000 steps with 1,000 of warm-up; text dropped 10% of the time; EMA
0.9999; Euler.

Data: "x_0" of 33 x 90 x 160 x 16 latents, times 0.476986 as published, "text" of 256
tokens of 4,096, "mask" of the real ones, "pooled" of 768. Not run here at this size.
"""

from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.hunyuan_video import hunyuan_video
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted


def recipe() -> Recipe:
    return Recipe(
        name="hunyuan-video",
        model=hunyuan_video(guidance=False, dtype="bfloat16", remat="block"),
        data=Latents("videos.safetensors", conditions=("text", "mask", "pooled")),
        process=Gaussian(Linear(), "velocity"),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=100_000, batch=64, learning_rate=1e-4, warmup=1000, ema=(0.9999,)
        ),
        sampling=Sampling(
            solver=Euler(), grid=Shifted(7.0), steps=50, guidance=CFG(6.0), batch=1
        ),
    )
