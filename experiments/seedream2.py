# SPDX-License-Identifier: Apache-2.0
"""Seedream 2.0: MM-DiT whose queries and keys are turned by a scaled RoPE.

    jdit train seedream2 --data.path captioned.safetensors

Gong et al., 2025, "Seedream 2.0: A Native Chinese-English Bilingual Image Generation
Foundation Model". From the paper: MM-DiT as in SD3 with normalised queries and keys; a
bilingual language model and Glyph-ByT5 (through an MLP to the same width) as text
encoders; Scaling RoPE on image tokens, with scale factors by the resolution such that
the patches in the centre share similar positions.

No code or weights, and neither sizes nor numbers of the training are published. Derived
here: the formula of the scale (`Centred`), the size of SD3-medium, and all settings of
`experiments/sd3.py`. "text" is both encoders' tokens, projected to one width before,
with the learned positions that the paper adds to them, which are left to the file;
MM-DiT's pooled vector is kept, which a language model gives as the mean of its tokens.
The paper's later stages (supervised tuning, human feedback, refinement) are no part of
this recipe.

Data: as for sd3. Not run here at this size.
"""

from dataclasses import replace

from experiments.sd3 import recipe as sd3
from jdit.recipe import Recipe
from jdit.tokens.rotary_geometries import Centred


def recipe() -> Recipe:
    first = sd3()
    rotary = Centred(axes=(32, 32), trained=(16, 16))
    model = replace(first.model, qk_norm=True, rotary=rotary)
    return replace(first, name="seedream2", model=model)
