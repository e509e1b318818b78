# SPDX-License-Identifier: Apache-2.0
"""Seedream 2.0: MM-DiT on spliced text and glyphs, turned by a scaled RoPE.

    jdit train seedream2 --data.path captioned.safetensors

Gong et al., 2025, "Seedream 2.0: A Native Chinese-English Bilingual Image Generation
Foundation Model". From the paper: MM-DiT as in SD3 with normalised queries and keys; a
bilingual decoder-only language model as text encoder; a glyph-aligned ByT5 for the
words to be written, of which the language model reads the whole and the look; an MLP to
the language model's width, both spliced into one text with learned positions
(`GlyphMMDiT`); Scaling RoPE on image tokens, with scale factors by the resolution such
that the patches in the centre share similar positions.

No code or weights, and neither sizes nor numbers of the training are published. Derived
here: the formula of the scale (`Centred`), what `GlyphMMDiT` says, the size of
SD3-medium, and all settings of `experiments/sd3.py`. Chosen: the widths are those of
public encoders that stand in, `jdit.encoders.qwen2_5_7b()` (the authors' model is their
own, tuned on pairs of text and image) and `byt5("small")`, whose layout Glyph-ByT5 has,
told by `Tokenizer(Bytes(), length, pad=0)`; "pooled", which MM-DiT reads and the paper
does not speak of, is the mean of the language model's tokens.

Of the stages after pre-training the paper says what they are, and not enough to derive
them: continued training tells aesthetic tags besides (VMix) and supervised tuning
generated images as bad ones, on chosen images; feedback learning raises the scores of
three CLIP reward models, of the authors' annotations, through one denoising step (akin
to ReFL), with the language model tuned along; a language model rewrites prompts; a
refiner of the same network, trained at 1024 pixels, enlarges what the base draws at
512, and how it is told that image is not said. Data, reward models and all settings are
the authors'. None of it is here.

Data: moments "x_0" of a 16-channel autoencoder as for sd3; "text" (3,584 wide),
"mask" and "pooled"; "second_text" (1,472 wide) and "second_mask", which is false
throughout for an image without words. Not run here at this size.
"""

from dataclasses import replace
from typing import Any

from experiments.sd3 import recipe as sd3
from jdit.models.glyph_mmdit import GlyphMMDiT, TextAndGlyphs
from jdit.recipe import Recipe
from jdit.tokens.rotary_geometries import Centred


def recipe() -> Recipe:
    first = sd3()
    changes: dict[str, Any] = dict(
        qk_norm=True,
        rotary=Centred(axes=(32, 32), trained=(16, 16)),
        conditioning=TextAndGlyphs(3584, 3584, second_features=1472),
    )
    told = ("text", "mask", "pooled", "second_text", "second_mask")
    return replace(
        first,
        name="seedream2",
        model=GlyphMMDiT(**vars(first.model) | changes),
        data=replace(first.data, conditions=told),
    )
