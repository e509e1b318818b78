# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM against scikit-image's."""

import numpy as np
import pytest

from jdit.evals import psnr, ssim

pytestmark = pytest.mark.parity
metrics = pytest.importorskip("skimage.metrics")


@pytest.mark.parametrize("shape", [(64, 64, 3), (33, 47, 1), (11, 11, 3)])
@pytest.mark.parametrize("span", [255, 2], ids=["bytes", "floats"])
def test_psnr_and_ssim(shape, span):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, *shape), np.uint8)
    b = np.clip(a + rng.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    if span == 2:
        a, b = a / 127.5 - 1, b / 127.5 - 1
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    settings |= dict(channel_axis=-1, data_range=span)
    pairs = list(zip(a, b, strict=True))
    wanted = [metrics.structural_similarity(x, y, **settings) for x, y in pairs]
    np.testing.assert_allclose(ssim(a, b), wanted, atol=1e-12)
    wanted = [metrics.peak_signal_noise_ratio(x, y, data_range=span) for x, y in pairs]
    np.testing.assert_allclose(psnr(a, b), wanted, rtol=1e-12)
