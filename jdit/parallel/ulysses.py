# SPDX-License-Identifier: Apache-2.0
"""Attention over split tokens by moving heads: every device sees all tokens of some."""

from dataclasses import dataclass

from jax import lax

from jdit import ops
from jdit.typing import Array, Bool, Float


@dataclass(frozen=True)
class Ulysses:
    """Two exchanges turn a split over tokens into one over heads, and back.

    Each device sends queries, keys, values and outputs once, about `4 n d / s` numbers
    of n tokens of width d on s devices, and attends to whole sequences with `1/s` of
    the heads: the mesh's `sequence` must divide the heads (that `tensor` leaves).
    Source: Jacobs et al. (2023), DeepSpeed Ulysses, section 3.
    """

    def head_parts(self, size: int) -> int:
        """How many parts the heads are split into, on so many devices."""
        return size

    def __call__(
        self,
        q: Float[Array, "b h n k"],
        k: Float[Array, "b g m k"],
        v: Float[Array, "b g m k"],
        mask: Bool[Array, "b m"] | None,
        axis: str,
    ) -> Float[Array, "b h n k"]:
        """One device's queries, attending to the keys of all, within `shard_map`."""
        q, k, v = (lax.all_to_all(x, axis, 1, 2, tiled=True) for x in (q, k, v))
        if mask is not None:
            mask = lax.all_gather(mask, axis, axis=1, tiled=True)
        out = ops.attention(q, k, v, mask=mask)
        return lax.all_to_all(out, axis, 2, 1, tiled=True)
