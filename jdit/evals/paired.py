# SPDX-License-Identifier: Apache-2.0
"""How far a run is from a reference run of the same noise, image by image."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

SIGMA = 1.5
"""Pixels; the window of SSIM."""

WINDOW = 11
"""Pixels a side; beyond, the Gaussian is cut off."""


def psnr(
    a: np.ndarray, b: np.ndarray, span: float | None = None
) -> Float[np.ndarray, " n"]:
    """Peak signal to noise ratio of each pair, in decibels: `10 log10(span^2 / MSE)`.

    a, b: images `n h w c`, both bytes, or both floats. span: largest less smallest
    value there may be; 255 for bytes, 2 for floats in [-1, 1].

    Infinite for equal images. Raises ValueError for pairs that do not fit, and NaN.
    """
    a, b, span = _pair(a, b, span)
    error = np.square(a - b).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(span**2 / error)


def ssim(
    a: np.ndarray, b: np.ndarray, span: float | None = None
) -> Float[np.ndarray, " n"]:
    """Structural similarity of each pair, at most 1 (Wang et al., 2004, equation 13).

        (2 mu_a mu_b + C1) (2 s_ab + C2) / ((mu_a^2 + mu_b^2 + C1) (s_a^2 + s_b^2 + C2))

    with moments under a Gaussian window of 11 by 11 pixels and sigma 1.5, C1 =
    (0.01 span)^2 and C2 = (0.03 span)^2, as in the paper (section III.C): moments of a
    population, not of a sample. The mean is over channels and those positions whose
    window lies inside the image. As scikit-image's `structural_similarity` with
    `gaussian_weights=True, use_sample_covariance=False`.

    a, b, span: as in `psnr`. Raises ValueError also for images smaller than 11 pixels.
    """
    a, b, span = _pair(a, b, span)
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"images are {a.shape[1]} by {a.shape[2]} pixels, but SSIM's window needs "
            f"at least {WINDOW} a side"
        )
    place = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-0.5 * np.square(place / SIGMA))
    window /= window.sum()

    def mean(x: np.ndarray) -> np.ndarray:
        x = correlate1d(correlate1d(x, window, 1), window, 2)
        edge = WINDOW // 2
        return x[:, edge:-edge, edge:-edge]

    small, smaller = (0.03 * span) ** 2, (0.01 * span) ** 2
    values = np.empty(len(a))
    for i in range(len(a)):  # one at a time: five copies of a set would be large
        x, y = a[i : i + 1], b[i : i + 1]
        mean_x, mean_y = mean(x), mean(y)
        var_x = mean(x * x) - mean_x * mean_x
        var_y = mean(y * y) - mean_y * mean_y
        shared = mean(x * y) - mean_x * mean_y
        above = (2 * mean_x * mean_y + smaller) * (2 * shared + small)
        below = (mean_x**2 + mean_y**2 + smaller) * (var_x + var_y + small)
        values[i] = (above / below).mean()
    return values


def relative_error(run: np.ndarray, reference: np.ndarray) -> Float[np.ndarray, " n"]:
    """`|run - reference| / |reference|` of each pair of latents `n *g c`.

    Norms over all values of an image: 0 for an equal run, about the root of 2 for one
    that has nothing to do with the reference.

    Raises ValueError for pairs that do not fit, NaN, and a reference of zeros.
    """
    a, b = _checked(run, reference)
    axes = tuple(range(1, a.ndim))
    norm = np.sqrt(np.square(b).sum(axes))
    if not norm.all():
        raise ValueError("a reference is all zeros, so that no error is relative to it")
    return np.sqrt(np.square(a - b).sum(axes)) / norm


def paired(run: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Means over pairs of images: PSNR, SSIM and the relative error, of one run.

    The mean PSNR is of finite ones; infinite if all pairs are equal.
    """
    ratios = psnr(run, reference)
    finite = ratios[np.isfinite(ratios)]
    scores = {"psnr": float(finite.mean()) if len(finite) else float("inf")}
    if min(np.shape(run)[1:3]) >= WINDOW:
        scores["ssim"] = float(ssim(run, reference).mean())
    floats = [_floats(x) for x in (run, reference)]
    scores["relative_error"] = float(relative_error(*floats).mean())
    return scores


def _floats(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    return x / np.float64(127.5) - 1 if x.dtype == np.uint8 else x


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim < 2 or not len(a):
        raise ValueError(
            f"the runs have shapes {a.shape} and {b.shape}, but both must be the same, "
            "(n, ...)"
        )
    if (a.dtype == np.uint8) != (b.dtype == np.uint8):
        raise ValueError(f"one run is {a.dtype} and the other {b.dtype}: use one kind")
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("the runs hold NaN or infinite values")
    return a, b


def _pair(
    a: np.ndarray, b: np.ndarray, span: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    if span is None:
        span = 255.0 if np.asarray(a).dtype == np.uint8 else 2.0
    a, b = _checked(a, b)
    if a.ndim != 4:
        raise ValueError(f"images have shape {a.shape}, but (n, h, w, c) is needed")
    return a, b, float(span)
