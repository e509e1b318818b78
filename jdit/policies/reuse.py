# SPDX-License-Identifier: Apache-2.0
"""Compute a branch now and then; in between, reuse what it last gave."""

from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from jdit.stack import Branch, Context, Site
from jdit.typing import Array, Int, Key, Params, Stream


@flax.struct.dataclass
class Kept:
    """A branch's last output, and for how many evaluations it still serves."""

    output: Stream
    left: Int[Array, ""]


@dataclass(frozen=True)
class Reuse:
    """Compute a branch at every `interval`-th evaluation, else reuse its output.

    The kept output is ungated, and is merged with the gate of the present time, as in
    FORA (Selvaraju et al., 2024: static caching of the outputs of attention and MLP
    does). An evaluation that reuses pays for the gate alone: the branch sits in a
    `lax.cond`. `interval` 1 is the plain model.

    Raises ValueError for an interval below 1.
    """

    interval: int = 2

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(
                f"interval is {self.interval}, but it must be at least 1 "
                "(1 computes every branch)"
            )

    def parameters(self, key: Key, delta: Stream) -> Params:
        return {}

    def init(self, delta: Stream) -> Kept:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), delta)
        return Kept(zeros, jnp.zeros((), jnp.int32))

    def apply(
        self,
        branch: Branch,
        stream: Stream,
        context: Context,
        memory: Kept,
        site: Site,
        params: Params,
    ) -> tuple[Stream, Kept]:
        # What is left is kept in memory rather than read off `site.step`: a network
        # that is called for the first time late in a run has nothing to reuse.
        output = lax.cond(
            memory.left == 0,
            lambda: branch(stream, branch.weights),
            lambda: memory.output,
        )
        left = (memory.left - 1) % self.interval
        return branch.merge(stream, output), Kept(output, left)
