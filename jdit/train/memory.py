# SPDX-License-Identifier: Apache-2.0
"""What a training state takes on a device, against what there is."""

from math import prod
from typing import Any

import jax

from jdit.parallel import Plan
from jdit.recipe import Recipe
from jdit.train.state import abstract_state


def held(state: Any) -> int:
    """Bytes of a state, or of its shapes, on one device."""
    total = 0
    for leaf in jax.tree.leaves(state):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total += prod(shape) * (8 if is_key else leaf.dtype.itemsize)
    return total


def check_memory(recipe: Recipe, plan: Plan | None) -> None:
    """Raise ValueError where what training keeps is more than a device has.

    Before anything is allocated or compiled. What a step needs besides is not known
    yet (`jdit compile` tells). Devices that do not say what they have are not asked.
    """
    device = jax.local_devices()[0] if plan is None else plan.mesh.local_devices[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if not limit:
        return
    needed = held(abstract_state(recipe, plan))
    if needed > limit:
        raise ValueError(
            f"parameters, moments and averages are {needed / 2**30:.2f} GiB on each "
            f"device, but {device.device_kind} has {limit / 2**30:.2f} GiB: split them "
            "over more devices (mesh.fsdp), or train a smaller model"
        )
