# SPDX-License-Identifier: Apache-2.0
"""HunyuanDiT-g/2 at 1,024 pixels: Chinese and English, 1.5 billion parameters.

    jdit train hunyuan_dit --data.path captioned.safetensors

Li et al., 2024, "Hunyuan-DiT". From the paper and the published model (version 1.2):
77 tokens of a bilingual CLIP and 256 of mT5-XXL, latents of SDXL's autoencoder times
0.13025, 1,000 steps of the scaled linear schedule from 0.00085 to 0.018 (0.03 up to
version 1.1), prediction of v, guidance 6, 50 ancestral steps. From the defaults of the
published trainer (Tencent/HunyuanDiT 368280e, hydit/config.py and ds_config.py): AdamW
with a rate of 1e-4 and without decay, gradients clipped at 1, texts dropped with
probability 0.2, EMA 0.9999 where it is kept in float32.

Chosen here, for want of a published configuration of the whole training: 100,000 steps
of 1,024 images, 1,000 steps of warm-up; both texts dropped at once, where the trainer
drops each by itself; v alone, where the published model also has a learned variance.

Data: "x_0" of 128 x 128 latents, "text" (77 of 1,024), "mask", "second_text" (256 of
2,048) and "second_mask". Not run here at this size.
"""

from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.hunyuan_dit import TwoTexts, hunyuan_dit
from jdit.objectives import Denoising, DiscreteTime
from jdit.processes import DDPMScaledLinear, Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DDPM


def recipe() -> Recipe:
    return Recipe(
        name="hunyuan-dit-g-2",
        model=hunyuan_dit(
            "1.2",
            out_channels=4,
            conditioning=TwoTexts(dropout=0.2),
            dtype="bfloat16",
            remat="block",
        ),
        data=Latents(
            "captioned.safetensors",
            scale=0.13025,
            conditions=("text", "mask", "second_text", "second_mask"),
        ),
        process=Gaussian(DDPMScaledLinear(1000, 0.00085, 0.018), "v"),
        objective=Denoising(times=DiscreteTime()),
        training=Training(
            steps=100_000,
            batch=1024,
            learning_rate=1e-4,
            warmup=1000,
            ema=(0.9999,),
        ),
        sampling=Sampling(solver=DDPM(), steps=50, guidance=CFG(6.0)),
    )
