# SPDX-License-Identifier: Apache-2.0
"""Policies for some branches or some layers only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jax import lax

from jdit import stack
from jdit.stack import Always, Branch, Context, Policy, Site
from jdit.typing import Key, Memory, Params, Stream


@dataclass(frozen=True)
class PerBranch:
    """A policy for each named branch, e.g. `PerBranch({"attention": Reuse(3)})`.

    A branch that is not named is always computed, and costs no memory.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)

    def at(self, branch: str) -> Policy:
        return stack.policy_at(self.policies.get(branch, Always()), branch)

    def parameters(self, key: Key, delta: Stream) -> Params:
        return {n: self.at(n).parameters(key, delta) for n in self.policies}

    def init(self, delta: Stream) -> Memory:
        return {n: self.at(n).init(delta) for n in self.policies}

    def apply(
        self,
        branch: Branch,
        stream: Stream,
        context: Context,
        memory: Memory,
        site: Site,
        params: Params,
    ) -> tuple[Stream, Memory]:
        name = site.branch
        inner = (memory.get(name, ()), site, params.get(name, {}))
        stream, new = self.at(name).apply(branch, stream, context, *inner)
        return stream, memory | {name: new} if name in memory else memory


@dataclass(frozen=True)
class Depths:
    """A policy for the layers `first` to `last`, exclusive; others are computed.

    Negative numbers are not wrapped around. Raises ValueError for an empty range.
    """

    policy: Policy
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(
                f"first is {self.first} and last is {self.last}, but layers must "
                "be counted from 0 and first must lie below last"
            )

    def at(self, branch: str) -> Policy:
        return Depths(stack.policy_at(self.policy, branch), self.first, self.last)

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
        inside = (site.depth >= self.first) & (site.depth < self.last)
        return lax.cond(
            inside,
            lambda: self.policy.apply(branch, stream, context, memory, site, params),
            lambda: Always().apply(branch, stream, context, memory, site, params),
        )
