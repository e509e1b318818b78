# SPDX-License-Identifier: Apache-2.0
"""UltraFlux's second stage: high noise only, on the most beautiful images.

    jdit train ultraflux_aesthetic --data.path captioned_4k_top.safetensors \
        --training.start runs/ultraflux

Ye et al., 2025, section 3.2.4, Stage-wise Aesthetic Curriculum Learning: after
`experiments/ultraflux.py`, 2,000 steps more, of which two things differ. From the paper
and its table 9:

- times: only "timesteps above a threshold", in the table 0-459 of the 1,000 of the
  first stage. That is a band of high noise if, as in diffusers' training of Flux, the
  first of them is noise: times above 1 - 0.46 = 0.54, which is how it is read here.
  Within the band times are uniform, which was chosen.
- data: the 5% of all images that ArtiMuse, a model of aesthetics, ranks highest. A file
  of these is given as `data.path`; the scores are columns of the authors' data set,
  MultiAspect-4K-1M, and no part of this library.

Data: as for ultraflux. Not run here at this size.
"""

from dataclasses import replace

from experiments.ultraflux import recipe as ultraflux
from jdit.objectives import Band
from jdit.recipe import Recipe


def recipe() -> Recipe:
    first = ultraflux()
    return replace(
        first,
        name="ultraflux-aesthetic",
        data=replace(first.data, path="captioned_4k_top.safetensors"),
        objective=replace(first.objective, times=Band(low=0.54)),
        training=replace(first.training, steps=2_000, warmup=0),
    )
