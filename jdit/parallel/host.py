# SPDX-License-Identifier: Apache-2.0
"""Between devices and the host, where arrays are spread over several processes."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def first() -> bool:
    """Whether this process is the one that writes logs, exports and pictures."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process is here; nothing to wait for in a single one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def whole(x: Any) -> np.ndarray:
    """An array in host memory, of whichever processes its parts are.

    Within one process each part is read from its device. Across processes an array of
    more than two axes (stacked over layers) is gathered a layer at a time, so that no
    device holds more than that; all processes must call this together.
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    gather = _gather(x.sharding.mesh)  # type: ignore[attr-defined]
    if x.ndim < 3:
        return np.asarray(gather(x[None], 0))
    out = np.empty(x.shape, x.dtype)
    for i in range(len(x)):
        out[i] = gather(x, i)
    return out


@lru_cache
def _gather(mesh: Mesh) -> Any:
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda x, i: x[i], out_shardings=everywhere)
