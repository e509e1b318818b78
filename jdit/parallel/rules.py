# SPDX-License-Identifier: Apache-2.0
"""Which axes of the mesh split a parameter: rules over paths, outside the models."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jax.sharding import PartitionSpec

from jdit.parallel.mesh import AXES
from jdit.parallel.ring import Ring
from jdit.parallel.ulysses import Ulysses

_WEIGHT = r"kernel(/base|/q)?$"

TENSOR = (
    (rf"(^|/)(in|qkv|q|kv)/{_WEIGHT}", "fsdp? tensor?"),
    (r"(^|/)(in|qkv|q|kv)/bias$", "tensor?"),
    (rf"(^|/)out/{_WEIGHT}", "tensor? fsdp?"),
)
"""Attention and MLP: first matrices split by columns, second ones by rows (Shoeybi et
al., 2019, section 3), so that one sum over `tensor` ends each branch."""


@dataclass(frozen=True)
class Rules:
    """Path patterns, each with the axes of the mesh that split such parameters.

    A rule is a pair, `("mlp/in/kernel$", "fsdp tensor")`: a regular expression that is
    searched in the parameter's path ("blocks/mlp/in/kernel"), and a word for each of
    its *last* axes, so that a leading axis of layers need not be named:

        tensor       split over that axis of the mesh
        data+fsdp    split over both
        tensor?      split where the axis' size divides this one, else whole
        _            whole

    The first rule that is found decides. What an axis of size 1 splits is whole, so
    the same rules serve all meshes: the mesh alone says what is done.

    Raises ValueError for a pattern that is no regular expression, and an unknown axis.
    """

    rules: tuple[tuple[str, str], ...] = TENSOR
    """Pairs of a pattern and the axes, e.g. "mlp/in/kernel$" "fsdp tensor"."""
    rest: str = "fsdp"
    """What splits parameters that no rule names, along their longest axis that it
    divides, but not along layers; "" leaves them whole."""
    smallest: int = 2**14
    """Parameters of fewer numbers than this that no rule names stay whole."""
    attention: Ulysses | Ring = Ulysses()
    """How tokens that are split over `sequence` attend to all: Ulysses() or Ring()."""

    def __post_init__(self) -> None:
        for pattern, axes in self.rules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"sharding.rules has the pattern {pattern!r}, which is no regular "
                    f"expression: {error}"
                ) from error
            for word in axes.split():
                for axis in _axes(word):
                    _known(axis, f"the rule {pattern!r} of sharding.rules")
        for axis in _axes(self.rest):
            _known(axis, "sharding.rest")

    @property
    def used(self) -> set[str]:
        """The axes of the mesh that can split a parameter."""
        words = [word for _, axes in self.rules for word in axes.split()]
        return {axis for word in [*words, self.rest] for axis in _axes(word)}

    def spec(
        self, path: str, shape: tuple[int, ...], sizes: Mapping[str, int]
    ) -> PartitionSpec:
        """How the parameter of that path and shape is split.

        sizes: of the mesh's axes.

        Raises ValueError when a rule has more axes than the parameter, or one that
        does not divide it.
        """
        for pattern, axes in self.rules:
            if re.search(pattern, path):
                return self._ruled(path, shape, sizes, axes.split())
        size = math.prod(sizes[axis] for axis in _axes(self.rest))
        whole: list[tuple[str, ...] | None] = [None] * len(shape)
        if size > 1 and math.prod(shape) >= self.smallest:
            free = range(len(shape) > 2, len(shape))
            fits = [i for i in free if shape[i] % size == 0]
            if fits:
                whole[max(fits, key=lambda i: (shape[i], i))] = _axes(self.rest)
        return _spec(whole)

    def _ruled(
        self,
        path: str,
        shape: tuple[int, ...],
        sizes: Mapping[str, int],
        words: list[str],
    ) -> PartitionSpec:
        if len(words) > len(shape):
            raise ValueError(
                f"sharding.rules splits {len(words)} axes of {path}, which has "
                f"{len(shape)}: {shape}"
            )
        first = len(shape) - len(words)
        found: list[tuple[str, ...] | None] = [None] * len(shape)
        for i, word in enumerate(words, first):
            axes = tuple(axis for axis in _axes(word) if sizes[axis] > 1)
            size = math.prod(sizes[axis] for axis in axes)
            if shape[i] % size == 0:
                found[i] = axes or None
            elif not word.endswith("?"):
                raise ValueError(
                    f"sharding.rules splits axis {i} of {path}, of size {shape[i]}, "
                    f"over {'+'.join(axes)}, but {size} does not divide it (write "
                    f"{word + '?'!r} to leave it whole then)"
                )
        return _spec(found)


def _axes(word: str) -> tuple[str, ...]:
    word = word.removesuffix("?")
    return () if word in ("_", "") else tuple(word.split("+"))


def _known(axis: str, where: str) -> None:
    if axis not in AXES:
        raise ValueError(
            f"{where} has the axis {axis!r}, but a mesh has {', '.join(AXES)}"
        )


def _spec(axes: list[tuple[str, ...] | None]) -> PartitionSpec:
    return PartitionSpec(*(a[0] if a and len(a) == 1 else a for a in axes))


dp = Rules((), rest="")
"""Data parallel: every device has all parameters."""

fsdp = Rules(())
"""Fully sharded data parallel (Rajbhandari et al., 2020, stage 3): each parameter of
some size is split along its longest axis, and gathered layer by layer where it is used.
"""

fsdp_tensor = replace(fsdp, rules=TENSOR)
"""Both, and the default: attention and MLP are split over `tensor` too."""
