# SPDX-License-Identifier: Apache-2.0
"""LaVin-DiT-3B/2, many vision tasks told by examples (Wang et al., 2024).

    jdit train lavin_dit --data.path latents.npz

From the paper and its code: the network of 3.4 B parameters, flow matching along
straight lines with a velocity target, one answer asked for after pairs and a query;
AdamW with a rate of 1e-4, 640 examples a step, 100,000 steps at 256 pixels, as here,
and then 20,000 at 512 (`--model.grid 1 64 64 --training.start ... --training.steps
20000`); 20 Euler steps.

Chosen here, because the published code samples and does not train: no weight decay, the
warm-up, EMA 0.9999, times from a logit-normal distribution (the code has the module,
lib/transport/logitnorm.py), the share of examples whose shown frames are dropped for
guidance, and its scale. The file holds "x_0", the answers' latents `n 1 h w c`
of the spatio-temporal autoencoder, and "shown", `n t h w c`, laid out as
`jdit.conditioning.shown.lay_out` does.
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
from jdit.solvers import Euler


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
            conditioning=Shown(0.1),
        ),
        data=Examples("latents.npz"),
        process=Gaussian(),
        objective=Denoising(times=LogitNormal()),
        training=Training(
            steps=100_000, batch=640, learning_rate=1e-4, warmup=1000, ema=(0.9999,)
        ),
        sampling=Sampling(solver=Euler(), steps=20, guidance=CFG(1.5), batch=8),
    )
