# SPDX-License-Identifier: Apache-2.0
"""Weights against the papers' statements of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdit.objectives import EDMWeight, MinSNR, SoftMinSNR
from jdit.processes import EDM, DDPMLinear, Gaussian, Linear, VPLinear

TIME = jnp.array([0.005, 0.1, 0.25, 0.4, 0.9])


def snr(path):
    at = path(TIME)
    return np.asarray(at.alpha, np.float64) ** 2 / np.asarray(at.sigma) ** 2


@pytest.mark.parametrize("path", [VPLinear(), DDPMLinear()], ids=repr)
@pytest.mark.parametrize(
    "target, published",
    [
        ("noise", lambda snr: np.minimum(snr, 5) / snr),
        ("x_0", lambda snr: np.minimum(snr, 5)),
        ("v", lambda snr: np.minimum(snr, 5) / (snr + 1)),
    ],
)
def test_min_snr_is_the_published_weight_of_each_target(path, target, published):
    weight = MinSNR()(Gaussian(path, target), TIME)
    np.testing.assert_allclose(weight, published(snr(path)), rtol=1e-4)


def test_min_snr_of_rectified_flow():
    weight = MinSNR(3.0)(Gaussian(Linear(), "velocity"), TIME)
    expected = np.minimum((1 - TIME) ** 2, 3 * TIME**2)
    np.testing.assert_allclose(weight, expected, rtol=1e-5)


def test_min_snr_without_a_limit_is_the_plain_loss_of_the_noise():
    weight = MinSNR(1e9)(Gaussian(VPLinear(), "noise"), TIME)
    np.testing.assert_allclose(weight, 1, rtol=1e-5)


def test_soft_min_snr_is_the_published_weight_and_bounds_min_snr():
    sigma = 80 * np.asarray(TIME, np.float64)
    soft = SoftMinSNR(4.0)(Gaussian(EDM(), "x_0"), TIME)
    np.testing.assert_allclose(soft, 1 / (sigma**2 + 1 / 4), rtol=1e-5)
    hard = MinSNR(4.0)(Gaussian(EDM(), "x_0"), TIME)
    assert (soft <= hard).all() and (soft >= hard / 2).all()


@pytest.mark.parametrize("path", [EDM(), EDM(10.0, 1.3), VPLinear()], ids=repr)
def test_the_edm_weight_is_one_for_its_own_target(path):
    np.testing.assert_allclose(EDMWeight()(Gaussian(path, "edm"), TIME), 1, rtol=1e-5)


def test_the_edm_weight_of_x_0_is_table_1():
    sigma = 80 * np.asarray(TIME, np.float64)
    expected = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    weight = EDMWeight()(Gaussian(EDM(), "x_0"), TIME)
    np.testing.assert_allclose(weight, expected, rtol=1e-5)


@pytest.mark.parametrize("weighting", [MinSNR, SoftMinSNR])
def test_gamma_must_be_positive(weighting):
    with pytest.raises(ValueError, match="gamma is 0.0, but it must be above 0"):
        weighting(0.0)
