# SPDX-License-Identifier: Apache-2.0
"""What surgery is, and how it finds the weights it changes.

A weight that activations are multiplied by is a parameter named `kernel`, an array of
shape `*l d e` (`l` if it is stacked over depth), and is read by `jdit.linear.contract`
only. So it may be replaced by an *array-like leaf*: a pytree node with `contract(x)`,
`dense()`, `shape` and `dtype`. Its path is its keys joined by "/", such as
"blocks/attention/qkv/kernel".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax

from jdit.typing import Array, Float, Key, Params

Targets = str | Callable[[str], bool]
"""Which kernels: a regular expression searched for in the path, or a predicate."""


class Surgery(Protocol):
    """A change to a trained model and its parameters (seam 2)."""

    def __call__(self, model: Any, params: Params, key: Key) -> tuple[Any, Params]: ...


@dataclass(frozen=True)
class Chain:
    """Several surgeries, one after the other: `Chain((Quantise(), LoRA(8)))`."""

    parts: tuple[Surgery, ...]

    def __call__(self, model: Any, params: Params, key: Key) -> tuple[Any, Params]:
        for i, part in enumerate(self.parts):
            model, params = part(model, params, jax.random.fold_in(key, i))
        return model, params


def is_leaf(value: Any) -> bool:
    """Whether a node of the parameter tree is an array-like leaf."""
    return hasattr(value, "contract")


def dense(kernel: Any) -> Float[Array, "*l d e"]:
    """The plain array that a kernel stands for."""
    return kernel.dense() if is_leaf(kernel) else kernel


def nbytes(tree: Any) -> int:
    """Bytes of all the arrays of a tree (or of their shapes)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def kernels(params: Params) -> dict[str, Any]:
    """All kernels by their path, arrays or array-like leaves."""
    found = {}

    def visit(path: tuple, value: Any) -> None:
        name = path_string(path)
        if name.rsplit("/", 1)[-1] == "kernel":
            found[name] = value

    jax.tree_util.tree_map_with_path(visit, params, is_leaf=is_leaf)
    return found


def path_string(path: tuple) -> str:
    """A pytree path as keys joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def rewrite(
    params: Params, targets: Targets, change: Callable[[str, Any], Any]
) -> Params:
    """The parameters with `change(path, kernel)` in place of each targeted kernel.

    Raises ValueError when `targets` names no kernel.
    """
    names = kernels(params)
    hit = targets if callable(targets) else re.compile(targets).search
    chosen = {name for name in names if hit(name)}
    if not chosen:
        raise ValueError(
            f"targets {targets!r} names no kernel; this model has "
            + ", ".join(sorted(names))
        )

    def visit(path: tuple, value: Any) -> Any:
        name = path_string(path)
        return change(name, value) if name in chosen else value

    return jax.tree_util.tree_map_with_path(visit, params, is_leaf=is_leaf)
