# SPDX-License-Identifier: Apache-2.0
"""LightningDiT-XL/1 on ImageNet 256 in the latents of the VA-VAE.

    jdit train lightning_dit

Yao et al., 2025, "Reconstruction vs. Generation". From the published configuration
(configs/lightningdit_xl_vavae_f16d32.yaml): 80,000 steps of 1,024 images (64 epochs,
FID 2.11 there), AdamW with 2e-4 and betas 0.9 and 0.95, logit-normal times; sampling
with 249 Euler steps, times shifted by 0.3 (counted from noise; 10/3 here), guidance of
three channels by 10 at times up to 0.89. The loss is the squared error plus one minus
the cosine of prediction and target (`Directed`); averages with 0.9999.

Data: 32 x 16 x 16 latents of images and mirror images as `jdit encode` writes them,
normalised by their own mean and deviation per channel. (The published latents are one
draw of each, and their statistics are of 10,000 of them.) Not run here.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jdit.data import Encoded
from jdit.guidance import CFG
from jdit.models.lightning_dit import lightning_dit
from jdit.objectives import Denoising, LogitNormal
from jdit.objectives.base import Network, ask
from jdit.objectives.denoising import squared_error
from jdit.processes import Gaussian, Linear
from jdit.recipe import Recipe, Sampling, Training
from jdit.solvers import Euler, Shifted
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class Directed(Denoising):
    """`Denoising`, plus `1 - cos(output, target)` over channels, averaged over places.

    Source: hustvl/LightningDiT 2725fed, transport/transport.py, `use_cosine_loss`.
    """

    def __call__(
        self,
        key: Key,
        network: Network,
        params: Params,
        process: Gaussian,
        x_0: Float[Array, "b *g c"],
        conditions: Conditions,
    ) -> tuple[Float[Array, " b"], dict[str, Array]]:
        time, _, truth, out = ask(key, self.times, network, process, x_0, conditions)
        output = out.prediction
        error = squared_error(process, output, truth, time)
        target = process.express(truth, time, to=process.target)
        squares = [jnp.square(y).sum(-1) for y in (output, target)]
        lengths = [jnp.sqrt(jnp.maximum(square, 1e-16)) for square in squares]
        turned = 1 - (output * target).sum(-1) / (lengths[0] * lengths[1])
        away = turned.reshape(len(turned), -1).mean(-1)
        losses = self.weighting(process, time) * error + away
        return losses, {"error": error.mean(), "direction": away.mean()}


def recipe() -> Recipe:
    return Recipe(
        name="lightning-dit-xl-1",
        model=lightning_dit("XL", dtype="bfloat16", remat="dots"),
        data=Encoded("data/imagenet256-vavae", scaling="channels"),
        process=Gaussian(Linear(), "velocity"),
        objective=Directed(times=LogitNormal()),
        training=Training(
            steps=80_000,
            batch=1024,
            learning_rate=2e-4,
            betas=(0.9, 0.95),
            clip=None,
            ema=(0.9999,),
            flip=False,
            checkpoint_every=20_000,
        ),
        sampling=Sampling(
            solver=Euler(),
            grid=Shifted(10 / 3),
            steps=249,
            guidance=CFG(10.0, interval=(0.0, 0.89), channels=3),
        ),
    )
