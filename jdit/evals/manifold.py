# SPDX-License-Identifier: Apache-2.0
"""Scores of fidelity and diversity from balls around nearest neighbours."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from jdit.evals.kernel import pair, rows, squares
from jdit.evals.statistics import Points

_PART = 2048
"""Features of a set that are in float64 at once."""


def _distances(
    a: np.ndarray, b: np.ndarray, centre: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances by matrix products, rows of `a` at a time: each with `b m`.

    About the centre, which makes the products' rounding smaller; equal points are at
    exactly 0. In float64, of which there is a part of each set at a time: a whole set
    may be 1 GB.
    """
    parts = [slice(i, i + _PART) for i in range(0, len(b), _PART)]
    lengths = np.concatenate([squares(b[p] - centre) for p in parts])
    for r in rows(len(a), len(b)):
        x = a[r] - centre
        squared = np.empty((len(x), len(b)))
        for p in parts:
            squared[:, p] = x @ (b[p] - centre).T
        norms = squares(x)[:, None] + lengths
        squared *= -2
        squared += norms
        norms *= 1e-13  # below the rounding of the product
        squared[squared < norms] = 0
        yield r, squared


def _radii(
    features: np.ndarray, centre: np.ndarray, k: int, name: str
) -> Float[np.ndarray, " n"]:
    """The squared distance of each feature to its k-th nearest other one."""
    if k < 1:
        raise ValueError(f"k is {k}, but at least 1 neighbour is needed")
    if len(features) <= k:
        raise ValueError(
            f"{name} has {len(features)} features, but its {k} nearest neighbours need "
            f"at least {k + 1}"
        )
    radii = np.empty(len(features))
    for r, block in _distances(features, features, centre):
        block.partition(k, 1)  # the nearest is the feature itself, at 0
        radii[r] = block[:, k]
    return radii


def _checked(
    real: Points, fake: Points
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"], Float[np.ndarray, " d"]]:
    """Both sets, float32 ones as they are, and the mean of the real one."""
    real, fake = pair(real, fake, ("real", "fake"), keep=True)
    if not len(fake):
        raise ValueError("fake has no features")
    centre = real.mean(0, dtype=np.float64) if len(real) else np.zeros(real.shape[1])
    return real, fake, centre


def _within(
    points: np.ndarray, balls: np.ndarray, radii: np.ndarray, centre: np.ndarray
) -> Bool[np.ndarray, " n"]:
    """Which points lie in at least one ball (closed, as in the published code)."""
    within = np.empty(len(points), bool)
    for r, block in _distances(points, balls, centre):
        within[r] = (block <= radii).any(1)
    return within


def precision_recall(real: Points, fake: Points, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall, each in [0, 1].

    A manifold is the union of closed balls around its features that reach the k-th
    nearest other feature. Precision is the share of fakes in the real manifold, recall
    that of reals in the fakes' (Kynkaanniemi et al. 2019, equations 1 and 2; k = 3 and
    the closed ball as in their code and ADM's evaluator). Both depend on the numbers
    of features: compare only runs of equal counts.

    Raises ValueError for k features or fewer, NaN, or unequal dimensions.
    """
    real, fake, centre = _checked(real, fake)
    reach = [_radii(x, centre, k, n) for x, n in ((real, "real"), (fake, "fake"))]
    precision = _within(fake, real, reach[0], centre).mean()
    recall = _within(real, fake, reach[1], centre).mean()
    return float(precision), float(recall)


def density_coverage(real: Points, fake: Points, k: int = 5) -> tuple[float, float]:
    """Density (about 1 for equal distributions, may exceed 1) and coverage in [0, 1].

    With an open ball around each real feature that reaches its k-th nearest other
    one: density is the mean number of balls a fake lies in, over k; coverage is the
    share of balls with a fake in them (Naeem et al. 2020, equations 4 and 5; k = 5 and
    the strict inequality as in their code). More robust to outliers than
    `precision_recall`, because only real balls count.

    Raises ValueError for k real features or fewer, NaN, or unequal dimensions.
    """
    real, fake, centre = _checked(real, fake)
    radii = _radii(real, centre, k, "real")
    inside, covered = 0, np.zeros(len(real), bool)
    for _, block in _distances(fake, real, centre):
        balls = block < radii
        inside += int(balls.sum())
        covered |= balls.any(0)
    return inside / (k * len(fake)), float(covered.mean())
