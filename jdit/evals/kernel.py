# SPDX-License-Identifier: Apache-2.0
"""Distances by kernels: KID (cubic, unbiased) and CMMD (Gaussian)."""

import numpy as np
from jaxtyping import Float

from jdit.evals.statistics import Points, checked

_BLOCK = 1 << 22  # entries of the largest block of a pairwise matrix: 32 MiB


def pair(
    a: Points, b: Points, names: tuple[str, str], keep: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays checked, and of one dimension: float64, or float32 ones kept so.

    Raises ValueError.
    """
    kinds = [keep and getattr(x, "dtype", None) == np.float32 for x in (a, b)]
    a, b = (
        checked(x, name, np.float32 if single else np.float64)
        for x, name, single in zip((a, b), names, kinds, strict=True)
    )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features differ in dimension: {names[0]} has {a.shape[1]}, "
            f"{names[1]} has {b.shape[1]}"
        )
    return a, b


def rows(count: int, columns: int) -> list[slice]:
    """Slices over `count` rows, so that a block of rows x columns is bounded."""
    step = max(1, _BLOCK // max(columns, 1))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def squares(x: np.ndarray) -> Float[np.ndarray, " n"]:
    """|x|^2 of each feature; no second copy of them all, which may be a gigabyte."""
    return np.einsum("nd,nd->n", x, x)


def _total(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of `(x y^T / d + 1)^3` over all pairs."""
    total = 0.0
    for r in rows(len(a), len(b)):
        base = a[r] @ b.T / a.shape[1] + 1
        total += float((base * base * base).sum())  # `** 3` calls pow, 20x slower
    return total


def _diagonal(a: np.ndarray) -> float:
    return float(((squares(a) / a.shape[1] + 1) ** 3).sum())


def squared_mmd(a: Points, b: Points) -> float:
    """KID over all features: deterministic, unbiased, for sets of any two sizes.

    `sum_{i != j} k(a_i, a_j) / n(n-1) + sum_{i != j} k(b_i, b_j) / m(m-1)
    - 2 mean k(a, b)` with `k(x, y) = (x y / d + 1)^3` (Binkowski et al. 2018,
    equation 4 and section 4; Gretton et al. 2012, equation 3). Unbiased, so that it
    may be slightly negative. Memory is bounded by blocks of 32 MiB; float64.

    Raises ValueError for fewer than 2 features, NaN, or unequal dimensions.
    """
    a, b = pair(a, b, ("a", "b"))
    n, m = len(a), len(b)
    for name, count in (("a", n), ("b", m)):
        if count < 2:
            raise ValueError(f"{name} has {count} features, but at least 2 are needed")
    within = (_total(a, a) - _diagonal(a)) / (n * (n - 1))
    within += (_total(b, b) - _diagonal(b)) / (m * (m - 1))
    return within - 2 * _total(a, b) / (n * m)


def kernel_distance(
    a: Points,
    b: Points,
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """KID as published: mean and standard deviation over random subsets.

    100 subsets of 1,000 features of each set, drawn without replacement, are compared
    by `squared_mmd` (Binkowski et al. 2018; the numbers, the seed and the order of
    drawing are torch-fidelity's, so that the same features give the same figure).

    Raises ValueError if a set is smaller than `size`: use `squared_mmd` then.
    """
    a, b = pair(a, b, ("a", "b"), keep=True)  # a subset is float64
    if subsets < 1 or size < 2:
        raise ValueError(
            f"subsets is {subsets} and size {size}, but at least 1 and 2 are needed"
        )
    if min(len(a), len(b)) < size:
        raise ValueError(
            f"the sets have {len(a)} and {len(b)} features, but subsets of {size} need "
            "at least as many; lower size or use squared_mmd"
        )
    generator = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        first = a[generator.choice(len(a), size, replace=False)]
        second = b[generator.choice(len(b), size, replace=False)]
        values.append(squared_mmd(first, second))
    return float(np.mean(values)), float(np.std(values))


def cmmd(
    real: Points, fake: Points, *, sigma: float = 10.0, scale: float = 1000.0
) -> float:
    """CMMD: a squared MMD with a Gaussian kernel between CLIP embeddings.

    `scale (mean k(a, a) + mean k(b, b) - 2 mean k(a, b))` with
    `k(x, y) = exp(-|x - y|^2 / 2 sigma^2)` (Jayasumana et al., 2024, section 4;
    sigma 10 and scale 1,000 as in google-research/cmmd). The means are over all pairs,
    those of a row with itself among them: the estimator of least variance (Gretton et
    al., 2012, equation 5), never negative. In float64, where the published code has
    float32.

    real, fake: embeddings of length 1, `n d` and `m d` (see `jdit.evals.CLIP`).

    Raises ValueError for an empty set, NaN, unequal dimensions, or sigma not above 0.
    """
    real, fake = pair(real, fake, ("real", "fake"))
    if sigma <= 0:
        raise ValueError(f"sigma is {sigma}, but it must be positive")
    for name, rows_of in (("real", real), ("fake", fake)):
        if len(rows_of) < 2:
            raise ValueError(
                f"{name} has {len(rows_of)} features, but at least 2 are needed"
            )
    centre = real.mean(0)  # distances do not change, their rounding does
    real, fake = real - centre, fake - centre
    within = _likeness(real, real, sigma) + _likeness(fake, fake, sigma)
    return max(scale * (within - 2 * _likeness(real, fake, sigma)), 0.0)


def _likeness(a: np.ndarray, b: np.ndarray, sigma: float) -> float:
    """The mean of the Gaussian kernel less 1, over all pairs: it is near 1."""
    norms, total = squares(b), 0.0
    for r in rows(len(a), len(b)):
        squared = squares(a[r])[:, None] + norms - 2 * (a[r] @ b.T)
        np.multiply(squared, -0.5 / sigma**2, out=squared)
        total += float(np.expm1(squared, out=squared).sum())
    return total / (len(a) * len(b))
