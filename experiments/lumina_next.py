# SPDX-License-Identifier: Apache-2.0
"""Lumina-Next: the 2B Next-DiT at 1,024 pixels with Gemma's tokens.

    jdit train lumina_next

Zhuo et al., 2024, "Lumina-Next". Against Lumina-T2I: Next-DiT with 8 groups of keys and
values, and the tokens of Gemma 2B (2,048 wide). Sampling is the paper's: few steps on
`TwoSided` times. With a second-order solver they are 10 to 20 evaluations there.

Larger images than in training, with the same weights: another `grid`, with
`stretch=TimeAware(scale)` of jdit.tokens.stretched, `base_tokens=4096`, and, for speed,
`context_drop=2`.

Chosen here: everything else as in `experiments/lumina_t2x.py`. Not run here.
"""

from dataclasses import replace

from experiments.lumina_t2x import recipe as lumina_t2x
from jdit.guidance import CFG
from jdit.models.lumina import next_dit
from jdit.recipe import Recipe, Sampling
from jdit.solvers import Heun
from jdit.solvers.grids import TwoSided


def recipe() -> Recipe:
    return replace(
        lumina_t2x(),
        name="lumina-next-2b",
        model=next_dit(dtype="bfloat16", remat="block"),
        sampling=Sampling(
            solver=Heun(), grid=TwoSided(), steps=10, guidance=CFG(4.0, channels=3)
        ),
    )
