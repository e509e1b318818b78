# SPDX-License-Identifier: Apache-2.0
"""The devices a program is compiled for: a slice of TPUs that is not there, or ours."""

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from jdit.compile.chips import CHIPS, Chip, chip_of
from jdit.compile.groups import Group

_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu asks its surroundings for where there is no TPU."""

_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
"""v4's two cores as one device, as Cloud TPU runs them; the others are so anyway."""


@dataclass(frozen=True)
class Topology:
    """Devices of one kind, and how they are connected.

    chip: their published rates, or None if unknown. shape: chips along each axis of
    the torus, of each slice; () where there is none. slices: that are connected by the
    network of the data centre.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    shape: tuple[int, ...] = ()
    slices: int = 1

    @property
    def platform(self) -> str:
        return self.devices[0].platform

    def rate(self, group: Group, order: Sequence[Any]) -> float:
        """Bytes a second that a chip sends to others of its group; 0 if unknown.

        order: the devices as the program numbers them, of which it means those of one
        slice. On a torus: over one link in each direction of each axis along which the
        group extends; half of that where the axis is not closed to a ring.
        """
        if self.chip is None or group.size < 2:
            return 0.0
        if not self.shape:
            return self.chip.link_rate
        if self.slices > 1:
            one = order[0].slice_index
            order = [device for device in order if device.slice_index == one]
        places = [order[i].coords for i in group.first]
        rings = self.chip.rings(self.shape)
        links = 0
        for axis, ring in enumerate(rings):
            if len({place[axis] for place in places}) > 1:
                links += 2 if ring else 1
        return self.chip.link_rate * max(1, links)


def topology(name: str) -> Topology:
    """The devices of a name: "v5e:16x16" and its like, or "cpu" or "gpu", those here.

    "2xv5e:16x16" are two slices, connected by the network of the data centre.

    Slices of TPUs need libtpu (the extra `tpu`), but no TPU. Raises ValueError for
    another name, ImportError without libtpu, RuntimeError where "gpu" finds none.
    """
    if name in ("cpu", "gpu"):
        devices = tuple(jax.devices(name))
        return Topology(name, devices, chip_of(devices[0].device_kind))
    found = re.fullmatch(r"(?:([1-9]\d*)x)?(\w+):([1-9]\d*(?:x[1-9]\d*)*)", name)
    if not found or found[2] not in CHIPS:
        raise ValueError(
            f"topology is {name!r}, but it must be cpu, gpu, or a kind and a shape, "
            f"such as v5e:16x16, or 2xv5e:16x16 for two slices; the kinds are "
            f"{', '.join(CHIPS)}"
        )
    slices, kind, size = int(found[1] or 1), found[2], found[3]
    chip, shape = CHIPS[kind], tuple(int(n) for n in size.split("x"))
    if len(shape) != chip.axes:
        example = "x".join("4" * chip.axes)
        raise ValueError(
            f"topology is {name!r}, but {kind} slices have {chip.axes} axes, such as "
            f"{kind}:{example}"
        )
    devices = _slices(name, kind, shape, slices)
    if len(devices) != slices * prod(shape):
        raise ValueError(
            f"topology {name!r} has {len(devices)} devices on {slices * prod(shape)} "
            "chips, but one device a chip is expected"
        )
    return Topology(name, devices, chip, shape, slices)


def _slices(
    name: str, kind: str, shape: tuple[int, ...], count: int
) -> tuple[Any, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            f"compiling for {name} needs libtpu, which is not installed: "
            "pip install 'jdit[tpu]'"
        )
    from jax.experimental import topologies

    if getattr(jax.config, "jax_platforms", None) is None:  # nothing will run
        jax.config.update("jax_platforms", "cpu")
    for key, value in _ALONE.items():
        os.environ.setdefault(key, value)
    if "XLA_FLAGS" in os.environ:  # libtpu aborts at other backends' that it lacks
        words = os.environ["XLA_FLAGS"].split()
        kept = (x for x in words if not x.startswith(("--xla_cpu_", "--xla_gpu_")))
        os.environ["XLA_FLAGS"] = " ".join(kept)
    options: dict[str, Any] = dict(_OPTIONS.get(kind, {}))
    size = "x".join(map(str, shape))
    if count > 1:
        options["num_slices"] = count
    host = tuple(min(n, 2) for n in shape[:2]) + (1,)
    if host != (2, 2, 1):
        options["chips_per_host_bounds"] = host
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{size}", **options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = re.sub(r"^[A-Z_]+: ", "", str(error).splitlines()[0])
        raise ValueError(f"topology {name!r} is not a slice: {reason}") from error
    return tuple(found.devices)
