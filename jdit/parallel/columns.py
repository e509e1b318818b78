# SPDX-License-Identifier: Apache-2.0
"""Kernels of several layers side by side, such as queries, keys and values."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jdit.typing import Array, Float

TENSOR = "tensor"


@dataclass(frozen=True)
class Exchanged:
    """Columns in the order `t p e` from `p t e`, on t devices along `tensor`.

    A kernel of queries, keys and values is stored as published, `d (3 e)`, and split in
    pieces as long as each other, which are not its parts. So every device lacks columns
    of its own heads. They are sent here, a layer at a time, which is less than queries,
    keys and values of all tokens where these are more than a few.

    `Linears` takes it by `side_by_side`.
    """

    mesh: jax.sharding.Mesh

    @property
    def count(self) -> int:
        return self.mesh.shape[TENSOR]

    def fits(self, features: int, parts: int) -> bool:
        """Whether the devices divide the columns, and `rounds` knows the way."""
        known = parts in (1, 2, 3)
        return self.count > 1 and features % self.count == 0 and known

    def __call__(self, x: Float[Array, "*d w"], parts: int) -> Float[Array, "*d w"]:
        sent, targets, got = rounds(self.count, parts)

        def local(x: Array) -> Array:
            pieces = jnp.stack(jnp.split(x, parts, -1))
            me = lax.axis_index(TENSOR)
            moved = [
                lax.ppermute(
                    jnp.take(pieces, jnp.asarray(mine)[me], 0),
                    TENSOR,
                    list(enumerate(target.tolist())),
                )
                for mine, target in zip(sent, targets, strict=True)
            ]
            order = jnp.asarray(got)[:, me]
            own = jnp.take(jnp.stack(moved), order, 0)
            return jnp.concatenate(list(own), -1)

        spec = PartitionSpec(*(None,) * (x.ndim - 1), TENSOR)
        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=spec,
            out_specs=spec,
            axis_names={TENSOR},
            check_vma=False,
        )(x)


def rounds(count: int, parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who sends which piece to whom, in `parts` rounds among `count` devices.

    Device j has the pieces `parts j + i`, i < parts, of all, and needs `count c + j`,
    c < parts. In each round every device sends one and gets one, which is possible in
    as many rounds as it has pieces; for a prime number of parts, as here: either i of
    what a device needs are all different, and i is the round, or all its c are.

    Returns, by round and device: i of what it sends, and the device that gets it; and
    by part c and device: the round in which c comes.
    """
    piece = np.arange(parts * count)
    i, c, target = piece % parts, piece // count, piece % count
    at = i if count % parts else (i + c) % parts
    sent, targets, got = (np.zeros((parts, count), int) for _ in range(3))
    sent[at, piece // parts] = i
    targets[at, piece // parts] = target
    got[c, target] = at
    return sent, targets, got
