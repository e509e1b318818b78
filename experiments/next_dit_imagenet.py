# SPDX-License-Identifier: Apache-2.0
"""Next-DiT 600M on ImageNet at 256 pixels, told by classes.

    jdit train next_dit_imagenet

Zhuo et al., 2024, "Lumina-Next". From the published code (Next-DiT-ImageNet, train.py
and exps/600M_bs256_lr5e-4_bf16_qknorm_lognorm.sh): all of
`experiments/flag_dit_imagenet.py`, with the other network; its README's FID is 2.36,
also of 900,000 steps. Larger images than in training: another `grid`, with a `stretch`
of jdit.tokens.stretched. Not run here.
"""

from dataclasses import replace

from experiments.flag_dit_imagenet import recipe as flag_dit
from jdit.models.lumina_labels import next_dit_labels
from jdit.recipe import Recipe


def recipe() -> Recipe:
    return replace(
        flag_dit(),
        name="next-dit-imagenet-600m",
        model=next_dit_labels("600M", dtype="bfloat16", remat="dots"),
    )
