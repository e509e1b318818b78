# SPDX-License-Identifier: Apache-2.0
"""The mesh: all devices of a run, as a grid with named axes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType

AXES = ("guidance", "data", "fsdp", "tensor", "sequence", "expert")
"""The mesh's axes, slowest first: devices of the later ones are close neighbours."""

INNER = "fsdp_inner"
"""In JAX's mesh, the faster part of `fsdp`: both together are that axis, and each by
itself can split an axis of a parameter that they do not divide together."""

BATCH = ("data", "fsdp", INNER)
"""The axes of JAX's mesh over which examples are split."""

SEQUENCE, GUIDANCE = "sequence", "guidance"
"""The axes over which tokens, and the passes of one guided step, are split."""


@dataclass(frozen=True)
class Mesh:
    """How many devices each axis has; the product is the number of devices.

    `Rules` say which parameters the axes split. Examples are split over `data` and
    `fsdp` together, tokens over `sequence`, and the passes of guidance over `guidance`.
    A size of -1, which one axis may have, is what the others leave.
    """

    data: int = -1
    """Devices that hold other examples, and the same parameters. Slices of TPUs are
    told apart here alone: it must be a multiple of their number."""
    fsdp: int = 1
    """Devices that hold other examples, and other parts of the parameters."""
    tensor: int = 1
    """Devices that hold the same examples, and other parts of each layer's width."""
    sequence: int = 1
    """Devices that hold the same examples, and other tokens."""
    expert: int = 1
    """Devices that hold the same examples, and other experts."""
    guidance: int = 1
    """2: sampling has devices for the conditional passes, and others for the rest."""

    def __post_init__(self) -> None:
        for name, size in self._given().items():
            if size != -1 and size < 1:
                raise ValueError(
                    f"mesh.{name} is {size}, but it must be at least 1, or -1 for what "
                    "the other axes leave"
                )
        if self.guidance not in (1, 2):
            raise ValueError(
                f"mesh.guidance is {self.guidance}, but it must be 1 or 2: a guided "
                "step has two passes"
            )
        free = [name for name, size in self._given().items() if size == -1]
        if len(free) > 1:
            raise ValueError(
                f"mesh.{free[0]} and mesh.{free[1]} are both -1, but only one axis can "
                "be what the others leave"
            )

    def _given(self) -> dict[str, int]:
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def sizes(self, count: int) -> dict[str, int]:
        """The size of each axis on so many devices, in the order of `AXES`.

        Raises ValueError when their product is not that number.
        """
        sizes = self._given()
        known = math.prod(size for size in sizes.values() if size != -1)
        shown = " x ".join(f"{name} {n}" for name, n in sizes.items() if n not in (1,))
        if -1 in sizes.values():
            if count % known:
                raise ValueError(
                    f"mesh is {shown}, but {known} does not divide the {count} devices"
                )
            sizes = {n: count // known if s == -1 else s for n, s in sizes.items()}
        elif known != count:
            raise ValueError(
                f"mesh is {shown or 'one device'}, {known} in all, but there are "
                f"{count} devices: make the product {count}, or one axis -1"
            )
        return {axis: sizes[axis] for axis in AXES}

    def build(
        self, devices: Sequence[jax.Device] | None = None, inner: int = 1
    ) -> jax.sharding.Mesh:
        """The mesh on these devices, or on all, as `grid` arranges them.

        Its axes are `Auto`: XLA's partitioner spreads a program over them.

        inner: how many of the devices along `fsdp` the axis `INNER` has.

        Raises ValueError where several slices do not divide `data`.
        """
        devices = jax.devices() if devices is None else list(devices)
        sizes = self.sizes(len(devices))
        placed, sizes = grid(devices, sizes), inside(sizes, inner)
        kinds = (AxisType.Auto,) * len(sizes)
        placed = placed.reshape(tuple(sizes.values()))
        return jax.sharding.Mesh(placed, tuple(sizes), axis_types=kinds)


def slices(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """Devices by the slice of TPUs they are in; one slice of whatever are none."""
    found: dict[int, list[jax.Device]] = {}
    for device in devices:
        tpu = device.platform == "tpu"
        found.setdefault(getattr(device, "slice_index", 0) if tpu else 0, []).append(
            device
        )
    return [found[index] for index in sorted(found)]


def grid(devices: Sequence[jax.Device], sizes: Mapping[str, int]) -> np.ndarray:
    """The devices as an array of these sizes, neighbours along the faster axes.

    Within a slice of TPUs, JAX's order for its torus. Several slices are connected by
    the network of the data centre: each holds a part of `data`, and all of the rest.
    """
    parts = slices(devices)
    if sizes["data"] % len(parts):
        raise ValueError(
            f"mesh.data is {sizes['data']}, but there are {len(parts)} slices: make it "
            "a multiple, since the network between slices is too slow for other axes"
        )
    own = dict(sizes) | {"data": sizes["data"] // len(parts)}
    shape = tuple(own[axis] for axis in AXES)
    return np.concatenate([_slice(p, shape) for p in parts], AXES.index("data"))


def _slice(devices: Sequence[jax.Device], shape: tuple[int, ...]) -> np.ndarray:
    if devices[0].platform != "tpu":
        return np.array(devices).reshape(shape)
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:  # an axis of the mesh is a part of one of the torus
        return mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )


def inside(sizes: Mapping[str, int], inner: int) -> dict[str, int]:
    """The sizes of JAX's axes: those of `AXES`, and `INNER` within `fsdp`."""
    split = dict(sizes) | {"fsdp": sizes["fsdp"] // inner, INNER: inner}
    at = AXES.index("fsdp") + 1
    return {axis: split[axis] for axis in (*AXES[:at], INNER, *AXES[at:])}
