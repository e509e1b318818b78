# SPDX-License-Identifier: Apache-2.0
"""Proof of what a policy saves: executions of each branch times XLA's cost of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial

import jax

from jdit import stack
from jdit.stack import Block, Branch, Context, Policy, Site
from jdit.typing import Array, Key, Memory, Params, Stream


@dataclass(frozen=True, eq=False)
class Tally:
    """How often each (depth, branch) was computed, counted on the host as it runs."""

    counts: Counter = field(default_factory=Counter)

    def total(self, branch: str | None = None) -> int:
        """Executions so far, of one branch or of all, over all depths."""
        jax.effects_barrier()
        wanted = {name for _, name in self.counts if branch in (None, name)}
        return sum(n for (_, name), n in self.counts.items() if name in wanted)

    def clear(self) -> None:
        jax.effects_barrier()
        self.counts.clear()


@dataclass(frozen=True)
class _Watched(Branch):
    record: Callable[[], None]

    def __call__(self, stream: Stream, weights: Params) -> Stream:
        self.record()
        return super().__call__(stream, weights)


@dataclass(frozen=True)
class Observed:
    """A policy, with each true execution of a branch counted in `tally`.

    The count is a host callback beside the branch's own operations, so that one inside
    a `lax.cond` counts only when that side runs: with `lax.cond` no compiled cost says
    what was executed. For tests and benchmarks; it costs a host call a branch.
    """

    policy: Policy
    tally: Tally = field(default_factory=Tally)

    def at(self, branch: str) -> Policy:
        return Observed(stack.policy_at(self.policy, branch), self.tally)

    def parameters(self, key: Key, delta: Stream) -> Params:
        return self.policy.parameters(key, delta)

    def init(self, delta: Stream) -> Memory:
        return self.policy.init(delta)

    def apply(
        self,
        branch: Branch,
        stream: Stream,
        context: Context,
        memory: Memory,
        site: Site,
        params: Params,
    ) -> tuple[Stream, Memory]:
        def add(depth: Array) -> None:
            self.tally.counts[int(depth), site.branch] += 1

        own = {f.name: getattr(branch, f.name) for f in fields(branch)}
        watched = _Watched(**own, record=lambda: jax.debug.callback(add, site.depth))
        return self.policy.apply(watched, stream, context, memory, site, params)


def branch_flops(
    block: Block, params: Params, stream: Stream, context: Context
) -> dict[str, float]:
    """XLA's count of one execution of each branch, in floating-point operations.

    params: stacked block parameters, of which the first layer is compiled.
    """
    layer = jax.tree.map(lambda leaf: leaf[0], params)

    def flops(name: str) -> float:
        run = jax.jit(partial(block.output, name))
        compiled = run.lower(layer[name], stream, context).compile()
        return float((compiled.cost_analysis() or {}).get("flops", 0.0))

    return {name: flops(name) for name in block.branches}
