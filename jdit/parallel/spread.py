# SPDX-License-Identifier: Apache-2.0
"""Sampling over the mesh: a wrapper of the denoiser that keeps its batch split."""

from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jdit.denoise import Denoiser, Wrapped, Wrapper
from jdit.guidance import in_halves
from jdit.parallel.plan import Plan
from jdit.processes import Prediction
from jdit.typing import Array, Conditions, Memory


@dataclass(frozen=True)
class Spread:
    """Data, conditions, predictions and memory stay split over the plan's devices.

    It changes no number: image i depends on the key and i alone, on any mesh. Memory
    (of policies, of guidance) is split along its batch axis, which is found by
    evaluating shapes for two sizes of the batch; what has none is replicated.

    Where the mesh has two devices along `guidance`, one has the conditional passes and
    the other the unconditional ones, and both the data: predictions alone move.

    guidance: the wrapper inside, or None; a `CFG` where the mesh splits it.
    """

    plan: Plan
    guidance: Wrapper | None = None

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        if self.guidance is not None:
            denoiser = self.guidance(denoiser)
        if self.plan.halves:
            denoiser = in_halves(denoiser)
        return _Spread(self.plan, denoiser)


@dataclass(frozen=True)
class _Spread(Wrapped):
    plan: Plan
    inner: Denoiser

    def init(self, x_t: Array, conditions: Conditions) -> Memory:
        memory = self.inner.init(x_t, conditions)
        return self._pinned(memory, self._axes(x_t, conditions))

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: Memory,
        evaluation: Array,
    ) -> tuple[Prediction, Memory]:
        axes = self._axes(x_t, conditions)
        x_t, conditions = self.plan.pin((x_t, conditions))
        prediction, memory = self.inner(x_t, time, conditions, memory, evaluation)
        return self.plan.pin(prediction), self._pinned(memory, axes)

    def _pinned(self, memory: Memory, axes: Any) -> Memory:
        def pin(x: Array, axis: int) -> Array:
            over = self.plan.rows(x.shape[axis]) if axis >= 0 else ()
            if not over:
                return x
            rest = [PartitionSpec.UNCONSTRAINED] * x.ndim  # tokens may be split too
            spec = PartitionSpec(*rest[:axis], over, *rest[axis + 1 :])
            here = NamedSharding(self.plan.mesh, spec)
            return jax.lax.with_sharding_constraint(x, here)

        return jax.tree.map(pin, memory, axes)

    def _axes(self, x_t: Array, conditions: Conditions) -> Any:
        """The batch axis of each leaf of the memory; -1 where it has none."""

        def shapes(times: int) -> Any:
            x, told = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((times * len(x), *x.shape[1:]), x.dtype),
                (x_t, conditions),
            )
            return jax.eval_shape(self.inner.init, x, told)

        def axis(one: Any, two: Any) -> int:
            pairs = zip(one.shape, two.shape, strict=True)
            return next((i for i, (a, b) in enumerate(pairs) if a != b), -1)

        return jax.tree.map(axis, shapes(1), shapes(2))
