# SPDX-License-Identifier: Apache-2.0
"""The 1,797 real handwritten digits that scikit-learn ships."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jdit.data.base import ArraySource, keys

_TENTHS = {
    "train": (0, 7),
    "test": (7, 10),
    "test_a": (7, 8.5),
    "test_b": (8.5, 10),
    "all": (0, 10),
}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8 x 8 grey pixels, labels 0 ... 9.

    split: "train" (70% of each class), "test" (the other 30%), its two disjoint halves
        "test_a" and "test_b" (what two samples of real digits differ by), or "all".
        The split is fixed: each class in a hashed order, cut at 70% and 85%.

    Pixels are counts 0 ... 16 of set dots in a 4 x 4 block; `x_0 = count / 8 - 1`, in
    [-1, 1], ink is 1.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, the
    test part, through `sklearn.datasets.load_digits`.
    """

    split: str = "train"

    def __post_init__(self) -> None:
        if self.split not in _TENTHS:
            raise ValueError(
                f"split is {self.split!r}, not one of {', '.join(_TENTHS)}"
            )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (8, 8, 1)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def source(self) -> ArraySource:
        x, label = _load()
        rank = np.empty(len(label), np.float64)
        for digit in range(10):
            where = np.flatnonzero(label == digit)
            rank[where[np.argsort(keys(0, where))]] = np.arange(len(where)) / len(where)
        low, high = _TENTHS[self.split]
        chosen = np.flatnonzero((rank >= low / 10) & (rank < high / 10))
        return ArraySource(repr(self), {"x_0": x[chosen], "label": label[chosen]})


@functools.cache
def _load() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    from sklearn.datasets import load_digits  # 1 s to import

    digits = load_digits()
    x = digits.images.astype(np.float32)[..., None] / 8 - 1
    return x, digits.target.astype(np.int32)
