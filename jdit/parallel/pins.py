# SPDX-License-Identifier: Apache-2.0
"""Activations that stay split by examples, whatever splits the weights."""

from dataclasses import dataclass
from typing import Any

import jax

from jdit.parallel.plan import Plan
from jdit.stack import Always, Branch, Context, Policy, Site, policy_at
from jdit.typing import Array, Conditions, Key, Memory, Params, Stream


def pinned(plan: Plan | None, model: Any) -> Any:
    """The model, computing the same, with the stream split by examples everywhere.

    Where weights are split over `fsdp` and examples too, XLA may move either. Left to
    itself it gathers the examples of all devices and splits their features, which
    grows with the batch; pinned streams make it gather the weights, a layer at a time.

    plan: None gives the model itself, as does a model that takes no policy.
    """
    if plan is None or not hasattr(model, "stages"):
        return model
    return _Pinned(model, plan)


@dataclass(frozen=True)
class _Pinned:
    model: Any
    plan: Plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def apply(
        self,
        params: Params,
        x_t: Array,
        time: Array,
        conditions: Conditions | None = None,
        *,
        policy: Policy | None = None,
        **more: Any,
    ) -> Any:
        pins = Pins(self.plan, Always() if policy is None else policy)
        x_t = _pin(self.plan, x_t)
        return self.model.apply(params, x_t, time, conditions, policy=pins, **more)

    def memory(
        self, params: Params, x_t: Array, conditions: Conditions, policy: Policy
    ) -> Memory:
        return self.model.memory(params, x_t, conditions, Pins(self.plan, policy))


@dataclass(frozen=True)
class Pins:
    """A policy inside which streams, outputs and conditioning are split by examples."""

    plan: Plan
    inner: Policy = Always()

    def at(self, branch: str) -> "Pins":
        return Pins(self.plan, policy_at(self.inner, branch))

    def parameters(self, key: Key, delta: Stream) -> Params:
        return self.inner.parameters(key, delta)

    def init(self, delta: Stream) -> Memory:
        return self.inner.init(delta)

    def apply(
        self,
        branch: Branch,
        stream: Stream,
        context: Context,
        memory: Memory,
        site: Site,
        params: Params,
    ) -> tuple[Stream, Memory]:
        vector = _pin(self.plan, context.vector)
        context = context.replace(vector=vector)  # type: ignore[attr-defined]
        parts = branch.block, branch.name, branch.params
        here = _PinnedBranch(*parts, context, self.plan)
        stream = _pin(self.plan, stream)
        stream, memory = self.inner.apply(here, stream, context, memory, site, params)
        return _pin(self.plan, stream), memory


@dataclass(frozen=True)
class _PinnedBranch(Branch):
    plan: Plan

    def __call__(self, stream: Stream, weights: Params) -> Stream:
        return _pin(self.plan, super().__call__(stream, weights))


def _pin(plan: Plan, tree: Any) -> Any:
    """Arrays whose first axis is one of examples, split over it."""

    def pin(x: Array) -> Array:
        if not x.ndim or x.shape[0] % plan.parts:
            return x
        return plan.pin(x)

    return jax.tree.map(pin, tree)
