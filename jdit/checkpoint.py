# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or not there, kept by age and score, never of another model.

A checkpoint holds the state as named arrays ("params/blocks/.../kernel"), the position
in the data, and a description (recipe, source, versions). Names come from the tree's
paths, so an array-like leaf (`LowRank`, `Int8`) is its arrays under its own name.
"""

import importlib.metadata
import json
import logging
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from jdit.bucket import located
from jdit.objects import to_json
from jdit.typing import Array

Tree = TypeVar("Tree")
Which = Literal["latest", "best"] | int

PACKAGES = ("jdit", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")

PIECES = ocp.SaveArgs(chunk_byte_size=2**24)
"""An array is written in pieces of at most so many bytes. Who restores a part of it
reads the pieces that the part is in; of one piece, that would be the whole array."""


def named(tree: Any) -> dict[str, Array]:
    """A tree's arrays by name: the keys of its path, joined by "/"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    keystr = jax.tree_util.keystr
    return {keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def rebuild(like: Tree, arrays: dict[str, Any]) -> Tree:
    """A tree of the structure of `like`, from arrays by name."""

    def leaf(name: str, like: Any) -> Any:
        if not _is_key(like):
            return arrays[name]
        impl = jax.random.key_impl(like) if isinstance(like, jax.Array) else None
        return jax.random.wrap_key_data(arrays[name], impl=impl)

    leaves = [leaf(name, one) for name, one in named(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def differences(
    want: dict[str, tuple[int, ...]], have: dict[str, tuple[int, ...]]
) -> str | None:
    """How named shapes differ, at the first name they do, or None."""
    for name, shape in want.items():
        if name not in have:
            return f"it has no {name}"
        if tuple(have[name]) != tuple(shape):
            return f"its {name} is {tuple(have[name])}, not {tuple(shape)}"
    extra = [name for name in have if name not in want]
    return f"it has {extra[0]}, which this model does not" if extra else None


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(recipe: Any) -> dict[str, Any]:
    """What a checkpoint says of its origin: recipe, its source, versions."""
    return {
        "recipe": to_json(recipe, strict=False),
        "source": recipe.source,
        "versions": versions(),
    }


class Checkpoint(NamedTuple):
    """What was restored: the state, the iterator's state, and the description."""

    step: int
    state: Any
    data: Any
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder; a context manager.

    Saving returns once the arrays are safe from being overwritten and writes in the
    background. A checkpoint is first a folder `N.orbax-checkpoint-tmp` and gets its
    name `N` when it is complete, so a run killed while writing leaves the earlier ones
    usable. Restoring takes arrays to the shardings of the state it is given.

    folder: of this machine, or in a bucket (`jdit.bucket`).
    keep: latest checkpoints that stay, besides the one of the lowest loss.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, read_only: bool = False):
        self.folder = located(folder)
        logging.getLogger("absl").setLevel(logging.ERROR)
        preserve = managers.AnyPreservationPolicy(
            [
                managers.LatestN(keep),
                managers.BestN(get_metric_fn=_loss, reverse=True, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else preserve,
            best_fn=_loss,
            best_mode="min",
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            "about": ocp.JsonCheckpointHandler(),
        }
        try:
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=handlers
            )
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{_unreadable(self.folder)} is damaged ({_reason(error)}); delete it "
                "to use the other checkpoints"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in order."""
        return sorted(self._manager.all_steps(read=True))

    def find(self, which: Which = "latest") -> int:
        """The step of the "latest", the "best" (lowest loss) or a given checkpoint.

        FileNotFoundError when there is none.
        """
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"there is no checkpoint in {self.folder}")
        if which == "latest":
            return steps[-1]
        if which == "best":
            best = self._manager.best_step()
            return steps[-1] if best is None else best
        if which not in steps:
            raise FileNotFoundError(
                f"there is no checkpoint of step {which!r} in {self.folder}; there are "
                f"{_listed(steps)}"
            )
        return int(which)

    def path(self, step: int) -> Any:
        return self.folder / str(step)

    def save(self, state: Any, data: Any, about: Any, *, loss: float) -> bool:
        """Start to write a checkpoint of `state.step`; False if it exists already.

        data: the iterator's state, and about: `describe(recipe)`; both JSON.
        """
        step = int(state.step)
        if step in self.steps():
            return False
        arrays = _raw(named(state))
        return self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays, dict.fromkeys(arrays, PIECES)),
                data=ocp.args.JsonSave({"state": data}),
                about=ocp.args.JsonSave(about),
            ),
            metrics={"loss": loss},
        )

    def restore(self, like: Any, which: Which = "latest") -> Checkpoint:
        """A checkpoint, in the structure, dtypes and shardings of `like`.

        like: a state, or its shapes; what has no sharding goes to the first device.

        FileNotFoundError when there is none; ValueError when it is damaged, or of
        another model, saying which array differs.
        """
        step = self.find(which)
        about = self.about(step)
        wanted = _raw(named(like))
        other = differences(
            _shapes(wanted), self._guard(step, self._saved_shapes, step)
        )
        if other:
            raise ValueError(f"{self.path(step)} is of another model: {other}")
        abstract = {name: _placed(x) for name, x in wanted.items()}
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        found = self._guard(step, self._manager.restore, step, args=args)
        return Checkpoint(step, rebuild(like, found.state), found.data["state"], about)

    def about(self, step: int) -> dict[str, Any]:
        """The description of a checkpoint: recipe, source, versions."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return self._guard(step, self._manager.restore, step, args=args).about

    def wait(self) -> None:
        """Until what is being written is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def _saved_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        saved = self._manager.item_metadata(step)["state"]
        if saved is None:
            raise OSError("it has no state")
        return _shapes(getattr(saved, "tree", saved))

    def _guard(self, step: int, call: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            rest = [other for other in self.steps() if other != step]
            others = f"to use {_listed(rest)}" if rest else "and train anew"
            raise ValueError(
                f"{self.path(step)} is damaged ({_reason(error)}); delete it {others}"
            ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _loss(metrics: Any) -> float:
    return metrics["loss"]


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _raw(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same with random keys as plain integers; abstract ones stay abstract."""

    def raw(x: Any) -> Any:
        if not _is_key(x):
            return x
        if isinstance(x, jax.Array):
            return jax.random.key_data(x)
        data = jax.eval_shape(jax.random.key_data, x)
        if getattr(x, "sharding", None) is None:  # else it is one key, replicated
            return data
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=x.sharding)

    return {name: raw(x) for name, x in arrays.items()}


def _placed(x: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(x, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _unreadable(folder: Any) -> Any:
    """The checkpoint whose description cannot be read, or the folder."""
    for path in sorted(folder.glob("*/_CHECKPOINT_METADATA")):
        for file in (path, path.parent / "metrics" / "metrics"):
            try:
                json.loads(file.read_text("utf-8"))
            except (OSError, ValueError):
                return path.parent
    return folder


def _shapes(arrays: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in arrays.items()}


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(str(step) for step in steps)
