# SPDX-License-Identifier: Apache-2.0
"""Mean and covariance of features, streamed, and the Frechet distance of two."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

Points = np.ndarray
"""Features `n d`. The functions that take them check them, and say what is wrong."""


def checked(
    features: object, name: str = "features", dtype: type = np.float64
) -> np.ndarray:
    """Features as a finite float64 array `n d`, or one sentence why they are not.

    dtype: another one to have them in.

    Raises ValueError for another number of axes and for NaN or infinite values, so
    that a NaN can never become a score.
    """
    array: np.ndarray = np.asarray(features, dtype)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}, but (n, d) is needed")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(1)).sum())
        raise ValueError(
            f"{name} holds NaN or infinite values in {bad} of {len(array)} rows"
        )
    return array


@dataclass(frozen=True)
class Statistics:
    """Mean, covariance and count of features, in float64 on the host.

    A value, not an accumulator: `update` and `merge` return new statistics. Two parts
    are joined by the pairwise formula of Chan, Golub and LeVeque (1979),

        mu = mu_a + delta n_b / n,   S = S_a + S_b + delta delta^T n_a n_b / n,

    with `delta = mu_b - mu_a` and `S = (n - 1) sigma`, which does not cancel the way a
    sum of squares does. `sigma` divides by n - 1, as np.cov and the published FID do.

    mu: `d`; sigma: `d d`; count: rows seen, None if a file did not say.
    """

    mu: Float[np.ndarray, " d"] = field(default_factory=lambda: np.zeros(0))
    sigma: Float[np.ndarray, "d d"] = field(default_factory=lambda: np.zeros((0, 0)))
    count: int | None = 0

    @classmethod
    def of(cls, features: Points) -> "Statistics":
        """The statistics of one array. Raises ValueError for NaN or another shape."""
        array = checked(features)
        if not len(array):
            return cls()
        mu = array.mean(0)
        centred = array - mu
        # the rounding of the mean, put back: exact for features far from zero
        shift = centred.mean(0)
        centred -= shift
        return cls(mu + shift, centred.T @ centred / max(len(array) - 1, 1), len(array))

    def update(self, features: Points) -> "Statistics":
        """These statistics with more features added."""
        return self.merge(Statistics.of(features))

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both sets together. Associative up to rounding.

        Raises ValueError if the dimensions differ or a count is not known.
        """
        a, b = self.count, other.count
        if a is None or b is None:
            raise ValueError(
                "statistics cannot be merged: a file they came from has no count"
            )
        if not a or not b:
            return other if not a else self
        _same_dimension(self, other)
        n = a + b
        delta = other.mu - self.mu
        scatter = self.sigma * (a - 1) + other.sigma * (b - 1)
        scatter = scatter + np.outer(delta, delta) * (a * b / n)
        return Statistics(self.mu + delta * (b / n), scatter / (n - 1), n)

    def fields(self, suffix: str = "") -> dict[str, np.ndarray]:
        """What a file holds: `mu`, `sigma` and, if known, `count`, each so suffixed."""
        fields = {f"mu{suffix}": self.mu, f"sigma{suffix}": self.sigma}
        if self.count is not None:
            fields[f"count{suffix}"] = np.asarray(self.count)
        return fields

    def save(self, path: str | Path) -> None:
        """Write an .npz with the fields of ADM and pytorch-fid, `mu` and `sigma`.

        A third field, `count`, is ours; the others ignore it.
        """
        with open(path, "wb") as file:  # np.savez would append .npz to another suffix
            np.savez(file, allow_pickle=False, **self.fields())

    @classmethod
    def load(cls, path: str | Path, suffix: str = "") -> "Statistics":
        """Read `save`'s file, or one by ADM (`mu`, `sigma`) or pytorch-fid.

        suffix: of the fields' names; "_s" for ADM's spatial features.

        Raises ValueError if a field is missing, misshapen or not finite.
        """
        names = [f"{name}{suffix}" for name in ("mu", "sigma")]
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise ValueError(f"{path} has no field {missing[0]!r} of statistics")
            mu, sigma = (file[name] for name in names)
            counted = f"count{suffix}" in file
            count = int(file[f"count{suffix}"]) if counted else None
        return cls.checked(mu, sigma, str(path), count)

    @classmethod
    def checked(
        cls, mu: object, sigma: object, name: str, count: int | None = None
    ) -> "Statistics":
        """Moments that came from elsewhere, `name`.

        Raises ValueError if they are misshapen or not finite.
        """
        a, b = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
        if a.ndim != 1 or b.shape != (len(a), len(a)):
            raise ValueError(
                f"{name} holds mu {a.shape} and sigma {b.shape}, but (d,) and (d, d) "
                "are needed"
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"{name} holds NaN or infinite statistics")
        return cls(a, b, count)


def _same_dimension(a: Statistics, b: Statistics) -> None:
    if a.mu.shape != b.mu.shape:
        raise ValueError(
            f"features differ in dimension: {len(a.mu)} in one set, "
            f"{len(b.mu)} in the other"
        )


def _factor(sigma: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """R of full column rank r with `R R^T = sigma`."""
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    floor = len(sigma) * np.finfo(np.float64).eps * max(values.max(), 0)
    kept = values > floor
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The squared 2-Wasserstein distance of two Gaussians with these moments.

        |mu_a - mu_b|^2 + tr(sigma_a) + tr(sigma_b) - 2 tr sqrt(sigma_a sigma_b)

    (Dowson and Landau, 1982; Heusel et al. 2017, equation 6). The last trace is that of
    the symmetric `sqrt(A^1/2 B A^1/2)`, hence the sum of the singular values of
    `R_a^T R_b` where `R R^T = sigma`: real, never NaN and exact for covariances of any
    rank, where the published sqrtm of a product needs an offset on the diagonal.

    Raises ValueError for sets of fewer than 2 features and for unequal dimensions.
    """
    for name, statistics in (("first", a), ("second", b)):
        if statistics.count is not None and statistics.count < 2:
            raise ValueError(
                f"the {name} set has {statistics.count} features, "
                "but a covariance needs at least 2"
            )
        moments = np.concatenate([statistics.mu, statistics.sigma.ravel()])
        if not np.isfinite(moments).all():
            raise ValueError(f"the {name} set's statistics hold NaN or infinite values")
    _same_dimension(a, b)
    left, right = _factor(a.sigma), _factor(b.sigma)
    cross = 0.0
    if left.shape[1] and right.shape[1]:
        cross = float(np.linalg.svd(left.T @ right, compute_uv=False).sum())
    delta = a.mu - b.mu
    value = delta @ delta + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross
    return max(float(value), 0.0)
