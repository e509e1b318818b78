# SPDX-License-Identifier: Apache-2.0
"""A plan: where each array of a run lives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jdit.parallel.mesh import BATCH, GUIDANCE, INNER, SEQUENCE, Mesh
from jdit.parallel.rules import Rules


@dataclass(frozen=True)
class Plan:
    """Where arrays live: a mesh of devices, and the rules for parameters.

    mesh: as `Mesh.build` gives it. Optimizer state, averages and gradients go where
    the parameter goes whose path theirs ends in.
    """

    mesh: jax.sharding.Mesh
    rules: Rules

    @property
    def batch(self) -> NamedSharding:
        """Examples, split over their first axis."""
        return NamedSharding(self.mesh, PartitionSpec(BATCH))

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def parts(self) -> int:
        """The number of parts that a batch is split into."""
        return self.count(BATCH)

    @property
    def tokens(self) -> int:
        """The number of parts that a long sequence of tokens is split into."""
        return self.mesh.shape[SEQUENCE]

    @property
    def halves(self) -> bool:
        """Whether the two passes of a guided step are on different devices."""
        return self.mesh.shape[GUIDANCE] > 1

    def count(self, axes: Sequence[str]) -> int:
        """The number of parts that axes of the mesh split something into."""
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def rows(self, count: int) -> tuple[str, ...]:
        """The axes that split so many rows, of examples or of both passes; () if none.

        Rows of two passes are all conditional ones and then all others, so that
        splitting them over `guidance` first leaves every example where it is.
        """
        both = (GUIDANCE, *BATCH)
        if self.halves and count % self.count(both) == 0:
            return both
        return BATCH if count % self.parts == 0 else ()

    def sharding(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """Where the parameter of that path goes; `jdit.load(..., sharding=)` takes it.

        Raises ValueError for a rule that does not fit it.
        """
        spec = self.rules.spec(path, tuple(shape), self.mesh.shape)
        return NamedSharding(self.mesh, spec)

    def tree(self, like: Any, params: Any) -> Any:
        """The shardings of a tree (a state, gradients), given the parameters' shapes.

        A leaf goes where the parameter does that its path ends in and whose shape it
        has ("opt_state/1/mu/blocks/mlp/in/kernel"); all others are replicated.
        """
        known = {
            path: (tuple(x.shape), self.sharding(path, x.shape))
            for path, x in _named(params)
        }

        def place(path: str, x: Any) -> NamedSharding:
            keys = path.split("/")
            for start in range(len(keys)):
                shape, found = known.get("/".join(keys[start:]), (None, None))
                if found is not None and shape == tuple(x.shape):
                    return found
            return self.replicated

        leaves = [place(path, x) for path, x in _named(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def pin(self, tree: Any, axis: int = 0) -> Any:
        """Within a program: examples stay split, along that axis of each array."""
        spec = PartitionSpec(*(None,) * axis, BATCH)
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))

    def pin_stream(self, tree: Any) -> Any:
        """Within a program: rows stay split, and the tokens of `b n d` too."""

        def pin(x: Any) -> Any:
            spec: list[Any] = [self.rows(len(x)) or None] if x.ndim else []
            if x.ndim == 3 and x.shape[1] >= self.tokens > 1:
                spec.append(SEQUENCE)
            if not any(spec):
                return x
            where = NamedSharding(self.mesh, PartitionSpec(*spec))
            return jax.lax.with_sharding_constraint(x, where)

        return jax.tree.map(pin, tree)

    def pin_params(self, tree: Any) -> Any:
        """Within a program: gradients, or averages, stay where parameters live."""
        return jax.lax.with_sharding_constraint(tree, self.tree(tree, tree))

    def share(self) -> tuple[int, int]:
        """Which piece of each batch this process reads: (index, of how many).

        Processes whose devices hold the same examples (a `tensor` axis across hosts)
        read the same piece. So batches do not depend on the number of processes.

        Raises ValueError where a process's devices hold no single piece.
        """
        rows: dict[int, set[int]] = {}
        where: dict[Any, Any] = dict(self.batch.devices_indices_map((self.parts,)))
        for device, (part,) in where.items():
            held = rows.setdefault(device.process_index, set())
            held |= set(range(*part.indices(self.parts)))
        pieces = sorted({tuple(sorted(held)) for held in rows.values()})
        size = len(pieces[0])
        for i, piece in enumerate(pieces):
            if piece != tuple(range(i * size, (i + 1) * size)):
                raise ValueError(
                    f"mesh gives a process parts {piece} of {self.parts} of each "
                    "batch, but it must be one piece, as long as the others': let "
                    "tensor, sequence and expert divide the devices of a process, or "
                    "the other way round"
                )
        mine = tuple(sorted(rows[jax.process_index()]))
        return pieces.index(mine), len(pieces)

    def feed(self, batch: Any) -> Any:
        """Examples of this process's piece, as global arrays on their devices."""
        count = self.share()[1]

        def put(x: Any) -> jax.Array:
            x = np.asarray(x)
            shape = (x.shape[0] * count, *x.shape[1:])
            return jax.make_array_from_process_local_data(self.batch, x, shape)

        return jax.tree.map(put, batch)

    def place(self, tree: Any) -> Any:
        """Whole examples, which every process has, as global arrays."""

        def put(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.batch, x.__getitem__)

        return jax.tree.map(put, tree)

    def round_up(self, batch: int) -> int:
        """The next batch that can be split."""
        return -(-batch // self.parts) * self.parts


def arrange(
    mesh: Mesh,
    rules: Rules,
    *,
    model: Any = None,
    batch: int | None = None,
    accumulate: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Plan | None:
    """The plan of a run, or None on a single device, which needs none.

    model: whose heads the tensor axis must divide, and whose parameters decide whether
    `fsdp` is divided in two (`Rules.divide`). batch, accumulate: `Training`'s.
    devices: which to use; all of all processes if not given.

    Raises ValueError when the mesh is not one of these devices, or does not fit the
    batch, the heads or the rules.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh.sizes(len(devices))
    if len(devices) == 1:
        if devices[0] != jax.local_devices()[0]:
            raise ValueError(
                f"devices is {devices[0]} alone, but a run on a single device uses the "
                "first one (or jax.default_device)"
            )
        return None
    used = {"data", "fsdp", SEQUENCE, GUIDANCE, *rules.used}
    for axis, size in sizes.items():
        if size > 1 and axis not in used:
            raise ValueError(
                f"mesh.{axis} is {size}, but no rule of sharding splits anything over "
                "it: its devices would all do the same"
            )
    parts = sizes["data"] * sizes["fsdp"]
    if batch is not None and batch % (parts * accumulate):
        pieces = f"{parts} devices (data {sizes['data']} x fsdp {sizes['fsdp']})"
        if accumulate > 1:
            pieces = f"{accumulate} micro-batches on {pieces}"
        raise ValueError(
            f"training.batch is {batch}, but it is split over {pieces}: make it a "
            f"multiple of {parts * accumulate}"
        )
    if batch is not None and sizes[GUIDANCE] > 1:
        raise ValueError(
            "mesh.guidance is 2, but a training step has no guidance: it is for "
            "sampling"
        )
    heads = getattr(model, "heads", None)
    if isinstance(heads, int):
        if "tensor" in rules.used and heads % sizes["tensor"]:
            raise ValueError(
                f"mesh.tensor is {sizes['tensor']}, but it must divide model.heads "
                f"{heads}"
            )
        if sizes[SEQUENCE] > 1:
            parts = rules.attention.head_parts(sizes[SEQUENCE])
            check_heads(heads, 1 if heads % sizes["tensor"] else sizes["tensor"], parts)
    params = _named(jax.eval_shape(model.init, jax.random.key(0))) if model else []
    divided = rules.divide(sizes, [(path, x.shape) for path, x in params])
    return Plan(mesh.build(devices, divided[INNER]), rules)


def check_heads(heads: int, tensor: int, parts: int) -> None:
    """Raise ValueError unless the heads that `tensor` leaves can be split so."""
    if heads % (tensor * parts):
        left = f"{heads} heads"
        if tensor > 1:
            left = f"{heads // tensor} heads that mesh.tensor {tensor} leaves"
        raise ValueError(
            f"mesh.sequence is {parts}, but under sharding.attention Ulysses it must "
            f"divide the {left}: take Ring, which needs no such thing"
        )


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    keystr = jax.tree_util.keystr
    return [(keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
