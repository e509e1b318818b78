# SPDX-License-Identifier: Apache-2.0
"""Guidance: wrappers that steer the denoiser by a second opinion."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdit.denoise import Denoiser
from jdit.processes import Prediction
from jdit.typing import Array, Conditions, Memory


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance in one batched call (Ho and Salimans, 2022).

    `unconditional + scale (conditional - unconditional)`; scale 1 is no guidance.
    """

    scale: float = 4.0

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        return _Guided(self, denoiser)


@dataclass(frozen=True)
class _Guided:
    guidance: CFG
    inner: Denoiser

    def init(self, x_t: Array, conditions: Conditions) -> Memory:
        return self.inner.init(*self._double(x_t, conditions))

    def null(self, conditions: Conditions) -> Conditions:
        return self.inner.null(conditions)

    def _double(self, x_t: Array, conditions: Conditions) -> tuple[Array, Conditions]:
        pair = (conditions, self.inner.null(conditions))
        both = jax.tree.map(lambda *c: jnp.concatenate(c), *pair)
        return jnp.concatenate([x_t, x_t]), both

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: Memory,
        evaluation: Array,
    ) -> tuple[Prediction, Memory]:
        x, both = self._double(x_t, conditions)
        prediction, memory = self.inner(x, time, both, memory, evaluation)

        def mix(value: Array) -> Array:
            yes, no = jnp.split(value, 2)
            return no + self.guidance.scale * (yes - no)

        return jax.tree.map(mix, prediction), memory
