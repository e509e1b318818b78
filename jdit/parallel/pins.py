# SPDX-License-Identifier: Apache-2.0
"""Activations that stay split by examples and tokens, whatever splits the weights."""

from dataclasses import dataclass
from typing import Any

from jdit.attention import attending
from jdit.linear import side_by_side, unflattened
from jdit.ops.platform import spread_over
from jdit.parallel.columns import Exchanged
from jdit.parallel.mesh import BATCH
from jdit.parallel.plan import Plan
from jdit.parallel.tokens import SplitTokens
from jdit.stack import Always, Branch, Context, Policy, Site, policy_at
from jdit.typing import Array, Conditions, Key, Memory, Params, Stream


def pinned(plan: Plan | None, model: Any) -> Any:
    """The model, computing the same, with the stream split everywhere.

    It is split by examples, and over the mesh's `sequence` by tokens too, where it has
    at least as many; attention to all tokens is then `SplitTokens`'.

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
        x_t = self.plan.pin_stream(x_t)
        told = params, x_t, time, conditions
        rows = self.plan.rows(len(x_t)) or BATCH
        mesh = self.plan.mesh
        with spread_over(mesh, rows, "tensor"), side_by_side(Exchanged(mesh)):
            if self.plan.tokens == 1:
                return self.model.apply(*told, policy=pins, **more)
            with attending(SplitTokens(self.plan, len(x_t))), unflattened():
                return self.model.apply(*told, policy=pins, **more)

    def memory(
        self, params: Params, x_t: Array, conditions: Conditions, policy: Policy
    ) -> Memory:
        return self.model.memory(params, x_t, conditions, Pins(self.plan, policy))


@dataclass(frozen=True)
class Pins:
    """A policy inside which streams, outputs and conditioning stay split."""

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
        vector = self.plan.pin_stream(context.vector)
        context = context.replace(vector=vector)  # type: ignore[attr-defined]
        parts = branch.block, branch.name, branch.params
        here = _PinnedBranch(*parts, context, self.plan)
        stream = self.plan.pin_stream(stream)
        stream, memory = self.inner.apply(here, stream, context, memory, site, params)
        return self.plan.pin_stream(stream), memory


@dataclass(frozen=True)
class _PinnedBranch(Branch):
    plan: Plan

    def __call__(self, stream: Stream, weights: Params) -> Stream:
        return self.plan.pin_stream(super().__call__(stream, weights))
