# SPDX-License-Identifier: Apache-2.0
"""LaVin-DiT-3B/2, many vision tasks told by examples (Wang et al., 2024).

    jdit train lavin_dit --data.path latents.npz

From the paper, as public notes tell it, and the code: the network of 3.4 B parameters,
flow matching along straight lines with a velocity target, one answer asked for after
pairs and a query; AdamW with a rate of 1e-4, 640 examples a step, 100,000 steps at 256
pixels, as here, and then 20,000 at 512 (`--model.grid 1 64 64 --training.start ...
--training.steps 20000`). From the code (f372858) alone: times from a logit-normal
distribution, guidance by 1.5 that keeps the query, and the times of sampling, which are
listed for 20 (and 30, 40) points: half of the Euler steps cover the first twentieth.

Not from the code: its loss (lib/transport/transport.py) adds a tenth of the absolute
error to the squared one, which is all of the paper's. Chosen here, because it does not
train: no weight decay, the warm-up, EMA 0.9999, and the share of examples whose pairs
are dropped for guidance.

The file holds "x_0", the answers' latents `n 1 h w c`, and "shown", `n t h w c`, laid
out as `jdit.conditioning.shown.lay_out` does: of `jdit.codecs.lavin_vae`, normalised,
sampled, and for images a frame at a time (`Frames(Stills(lavin_vae()))`).
"""

from dataclasses import dataclass

from jdit.conditioning.shown import Shown
from jdit.data import Latents
from jdit.data.base import ArraySource
from jdit.guidance import CFG
from jdit.models import lavin_dit
from jdit.objectives import Denoising, LogitNormal
from jdit.processes import Gaussian
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Times

GROWN = (
    *(0.0, 0.0056, 0.0111, 0.0167, 0.0222, 0.0278, 0.0333, 0.0389, 0.0444, 0.0500),
    *(0.0524, 0.0730, 0.1148, 0.1777, 0.2618, 0.3671, 0.4936, 0.6412, 0.8100, 1.0),
)
"""The published times, from noise to data."""


@dataclass(frozen=True)
class Examples(Latents):
    """`Latents` with "shown" beside x_0, both stored as the model sees them."""

    def source(self) -> ArraySource:
        columns = {name: self._arrays[name] for name in ("x_0", "shown")}
        return ArraySource("Examples", columns)


def recipe() -> Recipe:
    return Recipe(
        name="lavin-dit-3b-2",
        model=lavin_dit(
            grid=(1, 32, 32),
            dtype="bfloat16",
            remat="block",
            conditioning=Shown(0.1, query=1),
        ),
        data=Examples("latents.npz"),
        process=Gaussian(),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=100_000, batch=640, learning_rate=1e-4, warmup=1000, ema=(0.9999,)
        ),
        sampling=Sampling(
            solver=Euler(),
            grid=Times(tuple(1 - time for time in GROWN)),
            steps=19,
            guidance=CFG(1.5),
            batch=8,
        ),
    )
