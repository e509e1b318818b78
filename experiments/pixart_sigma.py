# SPDX-License-Identifier: Apache-2.0
"""PixArt-Sigma XL/2 at 1,024 pixels with compressed keys and values.

    jdit train pixart_sigma --data.path captioned.safetensors

Chen et al., 2024, "PixArt-Sigma". From the paper and its published configuration
(PixArt_sigma_xl2_img1024_internalms_kvcompress.py): 300 tokens of T5-XXL, latents of
SDXL's autoencoder times 0.13025, positions interpolated by 2, the keys and values of
the last 14 of 28 layers averaged over 2 x 2 tokens at the start, no decay, a rate of
2e-5 after 500 steps of warm-up, gradients clipped at 0.01, 20 steps of DPM-Solver,
guidance 4.5.

Chosen here: AdamW stands for CAME; one aspect ratio stands for buckets of several; 384
images a step and 14,000 steps. The published model starts from a trained one of 512
pixels (`--training.start`).

Data: moments "x_0" of 128 x 128 latents, "text" (300 tokens of 4,096) and "mask". Not
run here at this size.
"""

from dataclasses import replace

from experiments.pixart_alpha import recipe as alpha
from jdit.blocks.pixart import Compression
from jdit.models.pixart import pixart_sigma
from jdit.recipe import Recipe


def recipe() -> Recipe:
    start = alpha()
    return replace(
        start,
        name="pixart-sigma-1024",
        model=pixart_sigma(
            1024, compression=Compression(2, 14), dtype="bfloat16", remat="block"
        ),
        data=replace(start.data, scale=0.13025),
        training=replace(
            start.training, steps=14_000, batch=384, warmup=500, weight_decay=0.0
        ),
    )
