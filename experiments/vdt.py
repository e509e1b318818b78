# SPDX-License-Identifier: Apache-2.0
"""VDT-L/2 on videos of 16 frames, all tasks at once (Lu et al., 2024).

    jdit train vdt --data.path latents.npz

From the paper and its code: latents of Stable Diffusion's autoencoder frame by frame,
DDPM's linear schedule of 1,000 steps, noise prediction with learned variance; each
video is noised as one of seven tasks says (`KnownFrames`), and only what is noised is
trained. Sky Time-Lapse, the data of the published unified model, is no class data:
every video is class 0.

The published code samples and does not train. As DiT, from which it is built, trains:
AdamW at a constant 1e-4 without decay or clipping, EMA 0.9999, 250 ancestral steps.
Chosen here: the batch and the number of steps; one rectangle instead of several for
regions. The paper's own numbers could not be read. The file holds x_0 as `n t h w c`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jdit.data import Latents
from jdit.models import vdt
from jdit.objectives import DenoisingVLB
from jdit.processes import DDPMLinear, Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import DDPM


def known(batch: dict[str, Any], keys: Any) -> dict[str, Any]:
    """The clean video, as a condition of which training shows parts."""
    return {**batch, "frames": batch["x_0"]}


@dataclass(frozen=True)
class Videos(Latents):
    """`Latents` of videos, with "frames" beside x_0."""

    @property
    def transforms(self) -> tuple[Callable[..., dict[str, Any]], ...]:
        return (*super().transforms, known)


def recipe() -> Recipe:
    return Recipe(
        name="vdt-l-2",
        model=vdt("L", dtype="bfloat16", remat="block"),
        data=Videos("latents.npz", scale=0.18215),
        process=Gaussian(DDPMLinear(), "noise"),
        objective=DenoisingVLB(),
        training=Training(
            steps=500_000, batch=64, learning_rate=1e-4, clip=None, ema=(0.9999,)
        ),
        sampling=Sampling(solver=DDPM(), steps=250, guidance=None, batch=8),
    )
