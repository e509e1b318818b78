# SPDX-License-Identifier: Apache-2.0
"""UltraFlux: Flux at 4096 pixels, with Resonance 2-d RoPE and YaRN as its geometry.

    jdit train ultraflux --data.path captioned_4k.safetensors --training.start ...

Ye et al., 2025, "UltraFlux: Data-Model Co-Design for High-quality Native 4K
Text-to-Image Generation across Diverse Aspect Ratios". From the published code
(W2GenAI-Lab/UltraFlux 8dec21b): Flux dev's network, whose rows and columns are extended
from 64 tokens by `ResonanceYaRN`; an autoencoder that halves Flux's grid, so that 4096
pixels are 256 x 256 latents; the sampler's 50 steps, guidance 4, which is told, so that
a step is one pass, and time shift 4 (the script sets a `time_shift` that diffusers does
not read, so that what runs there is the shift of the scheduler's folder: 3 in Flux's).
From the paper: the objective, `HuberWavelet`, with Haar wavelets and thresholds from
0.2 to 1; AdamW at 1e-6, batches of 64, 30,000 steps of this first stage on all of the
data; the second is `experiments/ultraflux_aesthetic.py`. The autoencoder and the text
encoders are frozen.

Not published, and chosen: the objective's alpha, beta and gamma, the distribution of
times ("standard" in the paper; here SD3's with the sampler's shift), warm-up. The paper
mixes twelve or so sizes around 4096 x 4096 by aspect ratio; this recipe has the square
one (`--model.grid` takes another). The post-training of the autoencoder's decoder is
not here: the paper sums a squared error, 0.1 of a perceptual and 0.2 of a wavelet loss
on the high bands, of which it names neither the features nor the norm.

Data: as for flux, at 256 x 256 latents, with "guidance" for each example. Not run here
at this size.
"""

from dataclasses import replace

from experiments.flux import recipe as flux
from jdit.models.flux import flux_dev
from jdit.objectives import HuberWavelet, LogitNormal
from jdit.objectives import Shifted as ShiftedTime
from jdit.recipe import Recipe
from jdit.solvers import Shifted
from jdit.tokens.rotary_geometries import ResonanceYaRN


def recipe() -> Recipe:
    first = flux()
    return replace(
        first,
        name="ultraflux",
        model=flux_dev(
            grid=(256, 256),
            geometry=ResonanceYaRN(trained=(0, 64, 64)),
            dtype="bfloat16",
            remat="block",
        ),
        data=replace(first.data, conditions=("text", "pooled", "guidance")),
        objective=HuberWavelet(times=ShiftedTime(LogitNormal(), 4.0)),
        training=replace(
            first.training, steps=30_000, batch=64, learning_rate=1e-6, warmup=500
        ),
        sampling=replace(first.sampling, grid=Shifted(4.0), steps=50, guidance=None),
    )
