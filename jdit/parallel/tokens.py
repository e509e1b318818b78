# SPDX-License-Identifier: Apache-2.0
"""Attention of models whose tokens are split over the mesh's axis `sequence`."""

from dataclasses import dataclass
from itertools import accumulate
from math import lcm

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jdit.attention.heads import Tokens, attend_whole
from jdit.ops.platform import spread_over
from jdit.parallel.mesh import SEQUENCE
from jdit.parallel.plan import Plan, check_heads
from jdit.typing import Array

_ANY = PartitionSpec.UNCONSTRAINED


@dataclass(frozen=True)
class SplitTokens:
    """The dense attention, on tokens split over a plan's devices; `attending` takes it.

    Sequences that meet themselves (keys as long as the queries, be it beside others)
    are attended to by the plan's `sharding.attention`. Keys of another sequence, such
    as text, are whole on every device, and nothing moves. Rows that are not the batch's
    (frames, or the places along time) are sequences of their own: these are split
    instead of their tokens, so that only the change from one split to another moves
    anything (Zhao et al., 2024, "Dynamic Sequence Parallelism").

    Lengths need not be multiples: what is lacking is padded, and masked. Each group of
    joined tokens is split by itself.

    batch: rows of the model's batch.

    Raises ValueError for heads that cannot be split so.
    """

    plan: Plan
    batch: int

    def __call__(self, q: Tokens, k: Tokens, v: Tokens, mask: Array | None) -> Tokens:
        size, longest = self.plan.tokens, max(x.shape[2] for x in q)
        if len(q[0]) != self.batch:
            return self._by_rows(q, k, v, mask)
        if longest < size:
            return attend_whole(q, k, v, mask)
        return self._by_tokens(q, k, v, mask)

    def _by_rows(self, q: Tokens, k: Tokens, v: Tokens, mask: Array | None) -> Tokens:
        axes = (*self.plan.rows(self.batch), SEQUENCE)
        if len(q[0]) % self.plan.count(axes):
            return attend_whole(q, k, v, mask)
        place = NamedSharding(self.plan.mesh, PartitionSpec(axes, _ANY, None, None))
        pin = jax.lax.with_sharding_constraint
        q, k, v = pin((q, k, v), place)
        with spread_over(self.plan.mesh, axes, "tensor"):
            return pin(attend_whole(q, k, v, mask), place)

    def _by_tokens(self, q: Tokens, k: Tokens, v: Tokens, mask: Array | None) -> Tokens:
        size, kind = self.plan.tokens, self.plan.rules.attention
        meets_itself = max(x.shape[2] for x in q) in [x.shape[2] for x in k]
        parts = kind.head_parts(size) if meets_itself else 1
        over, k, v = self._heads(q, k, v, parts)
        lengths, own = [x.shape[2] for x in q], size if meets_itself else 1
        masks = _masks(mask, k, own)
        q = tuple(_padded(x, 2, size) for x in q)
        k, v = (tuple(_padded(x, 2, own) for x in parts) for parts in (k, v))

        def local(q: Tokens, k: Tokens, v: Tokens, masks: Tokens) -> Tokens:
            seen = jnp.concatenate(masks, 1) if masks else None
            if not meets_itself:
                return attend_whole(q, k, v, seen)
            sizes = [x.shape[2] for x in q]
            one_q, one_k, one_v = (jnp.concatenate(x, 2) for x in (q, k, v))
            out = kind(one_q, one_k, one_v, seen, SEQUENCE)
            return tuple(jnp.split(out, list(accumulate(sizes))[:-1], 2))

        rows = self.plan.rows(self.batch) or None
        split = PartitionSpec(rows, over, SEQUENCE, None)
        keys = split if meets_itself else PartitionSpec(rows, over, None, None)
        real = PartitionSpec(rows, SEQUENCE if meets_itself else None)
        spread = jax.shard_map(
            local,
            mesh=self.plan.mesh,
            in_specs=(split, keys, keys, real),
            out_specs=split,
            check_vma=False,
        )
        outputs = spread(q, k, v, masks)
        return tuple(x[:, :, :n] for x, n in zip(outputs, lengths, strict=True))

    def _heads(
        self, q: Tokens, k: Tokens, v: Tokens, parts: int
    ) -> tuple[str | None, Tokens, Tokens]:
        """What splits the heads, and keys and values with as many as that needs."""
        heads, groups = q[0].shape[1], k[0].shape[1]
        tensor = self.plan.mesh.shape["tensor"]
        if heads % tensor:
            tensor = 1
        check_heads(heads, tensor, parts)
        sharing = lcm(groups, tensor * parts) // groups
        if sharing > 1:
            k, v = (tuple(jnp.repeat(x, sharing, 1) for x in y) for y in (k, v))
        return "tensor" if tensor > 1 else None, k, v


def _padded(x: Array, axis: int, size: int) -> Array:
    lacking = -x.shape[axis] % size
    if not lacking:
        return x
    return jnp.pad(x, [(0, lacking if i == axis else 0) for i in range(x.ndim)])


def _masks(mask: Array | None, k: Tokens, size: int) -> Tokens:
    """Which keys of each group are real once padded; () where all are."""
    lengths = [x.shape[2] for x in k]
    if mask is None:
        if not any(n % size for n in lengths):
            return ()
        mask = jnp.ones((len(k[0]), sum(lengths)), bool)
    ends = list(accumulate(lengths))[:-1]
    return tuple(_padded(x, 1, size) for x in jnp.split(mask, ends, 1))
