# SPDX-License-Identifier: Apache-2.0
"""Training a network to go on from what it left before."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax, random

from jdit.objectives.base import Network, Objective
from jdit.objectives.denoising import Denoising
from jdit.processes import Gaussian
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class SelfConditioned:
    """Another objective, whose network is told latents of a first pass of its own.

    The first pass sees the same x_t and no latents, and its gradient is stopped: it
    stands for the step before (RIN, Jabri et al., 2023, section 3.2).

    inner: the objective. stage: where latents are read, after its last layer:
        `model.carried`. rate: how often an example is told them; otherwise zeros. The
        code gives 0.9 for ImageNet. condition: the name under which they are told.

    Raises ValueError for a stage that the network does not have.
    """

    stage: str
    inner: Objective = Denoising()
    rate: float = 0.9
    condition: str = "latents"

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is {self.rate}, but it must lie in [0, 1]")

    def parameters(self, key: Key, model: Any) -> Params:
        return self.inner.parameters(key, model)

    def __call__(
        self,
        key: Key,
        network: Network,
        params: Params,
        process: Gaussian,
        x_0: Float[Array, "b *g c"],
        conditions: Conditions,
    ) -> tuple[Float[Array, " b"], dict[str, Array]]:
        told_key, key = random.split(key)

        def told(x_t: Array, time: Array, conditions: Conditions) -> Any:
            taps = network(x_t, time, conditions).taps
            if self.stage not in taps:
                raise ValueError(
                    f"stage is {self.stage!r}, but the network has {sorted(taps)}"
                )
            latents = lax.stop_gradient(taps[self.stage][-1])
            keep = random.bernoulli(told_key, self.rate, (len(latents),))
            keep = keep.reshape(-1, *[1] * (latents.ndim - 1))
            latents = jnp.where(keep, latents, 0)
            return network(x_t, time, {**conditions, self.condition: latents})

        return self.inner(key, told, params, process, x_0, conditions)
