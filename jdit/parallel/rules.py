# SPDX-License-Identifier: Apache-2.0
"""Which axes of the mesh split a parameter: rules over paths, outside the models."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from jax.sharding import PartitionSpec

from jdit.parallel.mesh import AXES, INNER, inside
from jdit.parallel.ring import Ring
from jdit.parallel.ulysses import Ulysses

_WEIGHT = r"kernel(/base|/q)?$"

TENSOR = (
    (rf"(^|/)(in|qkv|q|(text_)?kv)/{_WEIGHT}", "fsdp? tensor?"),
    (r"(^|/)(in|qkv|q|(text_)?kv)/bias$", "tensor?"),
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
    the same rules serve all meshes: the mesh alone says what is done. Where `fsdp` or
    `fsdp?` divides no axis of a parameter, two axes are split over it together
    (`divide`).

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

        sizes: of the mesh's axes, `AXES` or those of JAX's mesh.

        Raises ValueError when a rule has more axes than the parameter, or one that
        does not divide it.
        """
        axes = _Axes(shape, sizes)
        for pattern, words in self.rules:
            if re.search(pattern, path):
                axes.ruled(path, words.split())
                return axes.spec
        if math.prod(shape) >= self.smallest:
            free = range(len(shape) > 2, len(shape))
            longest = sorted(free, key=lambda i: (shape[i], i), reverse=True)
            axes.split(longest, axes.real(self.rest), longest)
        return axes.spec

    def divide(
        self, sizes: Mapping[str, int], shapes: Iterable[tuple[str, tuple[int, ...]]]
    ) -> dict[str, int]:
        """The sizes of the axes of JAX's mesh: `fsdp` is two where that splits more.

        Of all ways, the one that leaves the least on a device, and of these the one
        whose second part is smallest: 1 where every parameter has an axis that `fsdp`
        divides.

        sizes: of `AXES`. shapes: the parameters', with their paths.
        """
        known, fsdp = list(shapes), sizes["fsdp"]

        def held(inner: int) -> int:
            parts, total = inside(sizes, inner), 0
            for path, shape in known:
                used = self.spec(path, shape, parts)
                over = math.prod(parts[name] for name in names_of(used))
                total += math.prod(shape) // over
            return total

        ways = [n for n in range(1, fsdp + 1) if fsdp % n == 0]
        return inside(sizes, min(ways, key=held))


class _Axes:
    """The axes of one parameter, and what splits each of them so far."""

    def __init__(self, shape: tuple[int, ...], sizes: Mapping[str, int]):
        self.shape, self.sizes = shape, sizes
        self.found: list[tuple[str, ...]] = [()] * len(shape)

    @property
    def spec(self) -> PartitionSpec:
        return PartitionSpec(*(a[0] if len(a) == 1 else a or None for a in self.found))

    def real(self, word: str) -> tuple[str, ...]:
        """The axes of the mesh that a word names and that split anything."""
        names = [
            name
            for axis in _axes(word)
            for name in ((axis, INNER) if axis == "fsdp" else (axis,))
        ]
        return tuple(name for name in names if self.sizes.get(name, 1) > 1)

    def fits(self, at: int, names: tuple[str, ...]) -> bool:
        over = math.prod(self.sizes[name] for name in self.found[at] + names)
        return self.shape[at] % over == 0

    def split(
        self, first: Sequence[int], names: tuple[str, ...], others: Sequence[int]
    ) -> bool:
        """Split the first axis that these names divide; False if there is none.

        Then the two parts of `fsdp`, if it has two, go to two axes: `INNER` to one of
        the others.
        """
        outer = tuple(name for name in names if name != INNER)
        for at in first:
            if self.fits(at, names):
                self.found[at] += names
                return True
        if outer == names:
            return False
        able = [at for at in first if self.fits(at, outer)]
        inner = [at for at in others if self.fits(at, (INNER,))]
        pairs = [(i, j) for i in able for j in inner if i != j]
        if pairs:
            able, (_, other) = [pairs[0][0]], pairs[0]
            self.found[other] += (INNER,)
        if able:
            self.found[able[0]] += outer
        return False

    def ruled(self, path: str, words: list[str]) -> None:
        """Split the last axes as a rule's words say."""
        shape = self.shape
        if len(words) > len(shape):
            raise ValueError(
                f"sharding.rules splits {len(words)} axes of {path}, which has "
                f"{len(shape)}: {shape}"
            )
        own = range(len(shape) - len(words), len(shape))
        asked = [(i, word, self.real(word)) for i, word in zip(own, words, strict=True)]
        for i, word, names in sorted(asked, key=lambda one: INNER in one[2]):
            soft = word.endswith("?")
            if not self.split([i], names, own if soft else ()) and not soft:
                size = math.prod(self.sizes[name] for name in names)
                raise ValueError(
                    f"sharding.rules splits axis {i} of {path}, of size {shape[i]}, "
                    f"over {'+'.join(_axes(word))}, but {size} does not divide it "
                    f"(write {word + '?'!r} to leave it whole then)"
                )


def names_of(spec: PartitionSpec) -> list[str]:
    """The axes of a mesh that split anything."""
    return [
        n for part in spec for n in ((part,) if isinstance(part, str) else part or ())
    ]


def _axes(word: str) -> tuple[str, ...]:
    word = word.removesuffix("?")
    return () if word in ("_", "") else tuple(word.split("+"))


def _known(axis: str, where: str) -> None:
    if axis not in AXES:
        raise ValueError(
            f"{where} has the axis {axis!r}, but a mesh has {', '.join(AXES)}"
        )


dp = Rules((), rest="")
"""Data parallel: every device has all parameters."""

fsdp = Rules(())
"""Fully sharded data parallel (Rajbhandari et al., 2020, stage 3): each parameter of
some size is split along its longest axis, and gathered layer by layer where it is used.
"""

fsdp_tensor = replace(fsdp, rules=TENSOR)
"""Both, and the default: attention and MLP are split over `tensor` too."""
