# SPDX-License-Identifier: Apache-2.0
"""Lumina-Next: the 2B Next-DiT at 1,024 pixels with Gemma's tokens.

    jdit train lumina_next

Zhuo et al., 2024, "Lumina-Next". Against Lumina-T2I: Next-DiT with 8 groups of keys and
values, and the tokens of Gemma 2B (256 of 2,048). Sampling is the paper's: few steps on
`TwoSided` times of a second-order solver, 10 to 20 evaluations. The paper's solver is
the midpoint rule, and here Heun's; the published scripts take 20 midpoint steps on
`Shifted(4.0)` times, guidance 4.

Larger images than in training, with the same weights: another `grid`, with
`stretch=TimeAware(scale)` of jdit.tokens.stretched, `base_tokens=4096`, and, for speed,
`context_drop=2`.

The published trainer is that of `experiments/lumina_t2x.py`, with the same rate, decay,
clipping and dropout by default. Chosen here: its batch and number of steps, which are
not published for this model, and one stage. Not run here.
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
