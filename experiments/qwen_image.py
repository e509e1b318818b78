# SPDX-License-Identifier: Apache-2.0
"""Qwen-Image's network, from scratch on captioned images at 256 pixels.

    jdit train qwen_image --data.path captioned.safetensors

Wu et al., 2025, "Qwen-Image Technical Report". From the report: 60 two-stream layers
that read Qwen2.5-VL-7B's last hidden states (3,584), MSRoPE (`Diagonal`), straight
paths with logit-normal times, training that begins at 256 pixels. Guidance 4 and 50
steps are those of the published example.

Chosen here: batch, rate, number of steps, dropout and EMA, which the report does not
tell: they are SD3's (`experiments/sd3.py`).

Data: "x_0", latents of the 16-channel autoencoder, normalised by the channel with the
file's arrays "shift" and "scale", and precomputed "text" and "mask". Not run here at
this size.
"""

from dataclasses import replace

from experiments.sd3 import recipe as sd3
from jdit.data import Latents
from jdit.guidance import CFG
from jdit.models.qwen_image import qwen_image
from jdit.recipe import Recipe


def recipe() -> Recipe:
    first = sd3()
    return replace(
        first,
        name="qwen-image",
        model=qwen_image(grid=(32, 32), dtype="bfloat16", remat="block"),
        data=Latents("captioned.safetensors", conditions=("text", "mask")),
        sampling=replace(first.sampling, steps=50, guidance=CFG(4.0)),
    )
