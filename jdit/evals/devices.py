# SPDX-License-Identifier: Apache-2.0
"""A feature net over all devices: each sees its part of a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jdit.parallel import Mesh
from jdit.typing import Array, Params


def over_devices(
    run: Callable[[Params, Array], Any],
    params: Params,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[np.ndarray | Array], Any]:
    """`run(params, batch)` as a compiled function of the batch, split over devices.

    The parameters are on every device. A batch that the devices do not divide is filled
    up with its last row, and the filling is dropped; row i of what comes back belongs
    to row i of the batch, and depends on it alone, up to the rounding of another shape.

    devices: this process's, if None.
    """
    devices = jax.local_devices() if devices is None else devices
    compiled = jax.jit(run)
    if len(devices) == 1:
        return lambda batch: compiled(params, batch)
    mesh = Mesh().build(devices)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

    def call(batch: np.ndarray | Array) -> Any:
        count = len(batch)
        fill = -count % len(devices)
        if fill:
            last = np.repeat(np.asarray(batch[-1:]), fill, 0)
            batch = np.concatenate([np.asarray(batch), last])
        found = compiled(params, jax.device_put(batch, rows))
        return jax.tree.map(lambda x: x[:count], found) if fill else found

    return call
