# SPDX-License-Identifier: Apache-2.0
"""On which devices, and how spread over them, operations will run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod

import jax


@dataclass(frozen=True)
class Spread:
    """Arrays split over a mesh: the axes for examples, and the one for heads."""

    mesh: jax.sharding.Mesh
    examples: tuple[str, ...]
    heads: str

    @property
    def parts(self) -> tuple[int, int]:
        """Into how many parts examples and heads are split."""
        sizes = self.mesh.shape
        return prod(sizes[axis] for axis in self.examples), sizes[self.heads]


_TARGET: ContextVar[tuple[str, int] | None] = ContextVar("target", default=None)
_SPREAD: ContextVar[Spread | None] = ContextVar("spread", default=None)


def platform() -> str:
    """What is compiled for: "cpu", "gpu" or "tpu"; by default JAX's own backend."""
    target = _TARGET.get()
    return target[0] if target else jax.default_backend()


def capability() -> tuple[int, int] | None:
    """The compute capability of the NVIDIA GPU at hand; None where there is none."""
    if platform() != "gpu" or jax.default_backend() != "gpu":
        return None
    said = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    found = re.fullmatch(r"(\d+)\.(\d+)", said)  # AMD's say something else
    return (int(found[1]), int(found[2])) if found else None


def spread() -> Spread | None:
    """How the arrays at hand are split, where `spread_over` said so."""
    return _SPREAD.get()


def on_one_device() -> bool:
    """Whether a kernel, which XLA cannot divide, would be whole on each device.

    So it is where there is one device, and inside `jax.shard_map` over a whole mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.manual_axes:
        return mesh.are_all_axes_manual
    target = _TARGET.get()
    return (target[1] if target else jax.device_count()) == 1


@contextmanager
def compiling_for(target: str, devices: int = 1) -> Iterator[None]:
    """Within it, functions are traced for so many devices of a kind, present or not.

    For compiling ahead, where the devices of a program are not those of the process.
    JAX remembers what it traced: give it a function that was not traced before.
    """
    token = _TARGET.set((target, devices))
    try:
        yield
    finally:
        _TARGET.reset(token)


@contextmanager
def spread_over(
    mesh: jax.sharding.Mesh, examples: tuple[str, ...], heads: str
) -> Iterator[None]:
    """Within it, functions are traced for arrays that are split so.

    XLA divides its own operations over a mesh, but no kernels: these are called on each
    device's part, and need to know what it is. Where the mesh does not divide them,
    examples or heads are gathered.
    """
    token = _SPREAD.set(Spread(mesh, examples, heads))
    try:
        yield
    finally:
        _SPREAD.reset(token)
