# SPDX-License-Identifier: Apache-2.0
"""Seam 3: the network as a denoiser with memory, which wrappers wrap."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp

from jdit.processes import Gaussian, Prediction
from jdit.stack import Always, Policy
from jdit.typing import Array, Conditions, Float, Int, Memory, Params

Denoise = Callable[[Array, Array, Memory, Array], tuple[Prediction, Memory]]
"""What a solver is handed: (x_t, time, memory, evaluation) -> (prediction, memory)."""


class Denoiser(Protocol):
    """A denoiser that is still told its conditions, so that wrappers may change them.

    time is a scalar; evaluation counts network evaluations within a sampling run.
    """

    @property
    def process(self) -> Gaussian:
        """The process whose network this is."""
        ...

    def init(self, x_t: Float[Array, "b *g c"], conditions: Conditions) -> Memory:
        """The first memory for a batch of this shape."""
        ...

    def null(self, conditions: Conditions) -> Conditions:
        """The conditions of the unconditional prediction."""
        ...

    def __call__(
        self,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, ""],
        conditions: Conditions,
        memory: Memory,
        evaluation: Int[Array, ""],
    ) -> tuple[Prediction, Memory]: ...


Wrapper = Callable[[Denoiser], Denoiser]
"""Guidance, whole-step caches, tiling: one pass of the network, wrapped."""


class Wrapped:
    """A denoiser around another: what it does not say itself, the inner one says."""

    inner: Denoiser

    @property
    def process(self) -> Gaussian:
        return self.inner.process

    def null(self, conditions: Conditions) -> Conditions:
        return self.inner.null(conditions)

    def init(self, x_t: Array, conditions: Conditions) -> Memory:
        return self.inner.init(x_t, conditions)


@dataclass(frozen=True)
class Network:
    """The innermost denoiser: one call of the model under a policy."""

    model: Any
    params: Params
    process: Gaussian
    policy: Policy = Always()

    def init(self, x_t: Array, conditions: Conditions) -> Memory:
        return self.model.memory(self.params, x_t, conditions, self.policy)

    def null(self, conditions: Conditions) -> Conditions:
        return self.model.null(conditions)

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: Memory,
        evaluation: Array,
    ) -> tuple[Prediction, Memory]:
        out = self.model.apply(
            self.params,
            self.process.scale(x_t, time),
            jnp.full(x_t.shape[0], time, jnp.float32),
            conditions,
            policy=self.policy,
            memory=memory,
            step=evaluation,
        )
        return self.process.predict(out.prediction, x_t, time), out.memory
