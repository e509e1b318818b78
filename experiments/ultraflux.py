# SPDX-License-Identifier: Apache-2.0
"""UltraFlux: Flux at 4096 pixels, with Resonance 2-d RoPE and YaRN as its geometry.

    jdit train ultraflux --data.path captioned_4k.safetensors --training.start ...

"UltraFlux: Data-Model Co-Design for High-quality Native 4K Text-to-Image Generation
across Diverse Aspect Ratios", 2025. From the published code (W2GenAI-Lab/UltraFlux
8dec21b): Flux dev's network, whose rows and columns are extended from 64 tokens by
`ResonanceYaRN`; an autoencoder that halves Flux's grid, so that 4096 pixels are 256 x
256 latents; the sampler's time shift 4, 50 steps, told guidance 4. The training code is
not published.

Left out, because no code of it is: the SNR-aware Huber loss on wavelets and the
curriculum of aesthetic stages; the plain squared error and SD3's times stand in. The
post-trained autoencoder is not part of the backbone. Rate, batch and steps were chosen.

Data: as for flux, at 256 x 256 latents, with "guidance" for each example. Not run here
at this size.
"""

from dataclasses import replace

from experiments.flux import recipe as flux
from jdit.models.flux import flux_dev
from jdit.objectives import Denoising, LogitNormal
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
        objective=Denoising(times=ShiftedTime(LogitNormal(), 4.0)),
        training=replace(
            first.training, steps=10_000, batch=64, learning_rate=1e-5, warmup=500
        ),
        sampling=replace(first.sampling, grid=Shifted(4.0), steps=50),
    )
