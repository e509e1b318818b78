# SPDX-License-Identifier: Apache-2.0
"""Errors against a reference run, by closed forms."""

import numpy as np
import pytest

from jdit.evals.paired import paired, psnr, relative_error, ssim

RNG = np.random.default_rng(0)
A = RNG.integers(0, 256, (3, 16, 13, 3), np.uint8)
B = RNG.integers(0, 256, (3, 16, 13, 3), np.uint8)


def test_psnr_of_a_known_error():
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    values = psnr(a, a + np.array([5, 10], np.uint8)[:, None, None, None])
    np.testing.assert_allclose(values, 20 * np.log10(255 / np.array([5, 10])))
    assert np.isinf(psnr(a, a)).all()


def test_bytes_and_floats_agree():
    floats = [x / 127.5 - 1 for x in (A, B)]
    np.testing.assert_allclose(psnr(A, B), psnr(*floats))
    np.testing.assert_allclose(ssim(A[..., :1], A[..., 1:2], 255), ssim_scaled())


def ssim_scaled():
    """SSIM does not change when the images and their span are scaled together."""
    return ssim(A[..., :1] / 1.0, A[..., 1:2] / 1.0, 255.0)


def test_ssim_of_one_window_is_its_formula():
    """11 by 11 pixels hold one window: moments are numpy's weighted ones."""
    x, y = A[:1, :11, :11, :1], B[:1, :11, :11, :1]
    row, column = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(row**2 + column**2) / (2 * 1.5**2)).ravel()
    weights /= weights.sum()
    u, v = x.ravel().astype(float), y.ravel().astype(float)
    cov = np.cov(u, v, aweights=weights, ddof=0)
    p, q = weights @ u, weights @ v
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    wanted = (2 * p * q + c1) * (2 * cov[0, 1] + c2)
    wanted /= (p * p + q * q + c1) * (cov[0, 0] + cov[1, 1] + c2)
    np.testing.assert_allclose(ssim(x, y), [wanted], rtol=1e-10)


def test_ssim_is_one_for_equals_and_the_luminance_term_for_constants():
    np.testing.assert_allclose(ssim(A, A), 1)
    np.testing.assert_allclose(ssim(A, B), ssim(B, A))
    a, b = (np.full((1, 12, 12, 1), x, np.uint8) for x in (50, 90))
    c = (0.01 * 255) ** 2
    wanted = (2 * 50 * 90 + c) / (50**2 + 90**2 + c)
    np.testing.assert_allclose(ssim(a, b), [wanted], rtol=1e-9)


def test_relative_error_of_a_scaled_run():
    z = RNG.normal(size=(4, 8, 8, 2))
    scale = np.array([1, 1.1, 0, -1]).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(relative_error(z * scale, z), [0, 0.1, 1, 2], atol=1e-12)


def test_means_over_pairs():
    b = A.copy()
    b[0] = A[0] // 2
    scores = paired(b, A)
    assert scores["psnr"] == pytest.approx(psnr(b[:1], A[:1])[0])  # others are equal
    assert scores["ssim"] == pytest.approx((2 + ssim(b[:1], A[:1])[0]) / 3)
    assert paired(A, A) == {"psnr": np.inf, "ssim": 1.0, "relative_error": 0.0}
    assert "ssim" not in paired(A[:, :8, :8], A[:, :8, :8])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: psnr(A, B[:2]), "both must be the same"),
        (lambda: psnr(A, B / 127.5 - 1), "use one kind"),
        (lambda: psnr(A / np.nan, B / 1.0), "NaN"),
        (lambda: psnr(A[0], B[0]), "n, h, w, c"),
        (lambda: ssim(A[:, :10], B[:, :10]), "at least 11"),
        (lambda: relative_error(A / 1.0, B * 0.0), "all zeros"),
    ],
    ids=["count", "kind", "nan", "axes", "small", "zeros"],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
