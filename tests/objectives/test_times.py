# SPDX-License-Identifier: Apache-2.0
"""Training times against the closed forms of their distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import kstest, norm

from jdit.objectives import (
    Band,
    CosMap,
    DiscreteTime,
    LogitNormal,
    LogNormalSigma,
    Mode,
    Shifted,
    UniformTime,
    resolution_shift,
    shifted,
)
from jdit.processes import EDM, Linear, log_snr

DRAWS = 20_000


def logit_normal(mean, scale):
    return lambda t: norm.cdf((np.log(t / (1 - t)) - mean) / scale)


def cosmap(t):
    def density(s):
        return 2 / (np.pi - 2 * np.pi * s + 2 * np.pi * s**2)

    return quad(density, 0, t)[0]


def mode(scale):
    def at(u):
        return 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)

    return lambda t: 1 - brentq(lambda u: at(u) - t, 0, 1)  # falls in u


def log_normal_sigma(t):
    return norm.cdf((np.log(80 * t) + 1.2) / 1.2)


CLOSED_FORMS = [
    (UniformTime(), lambda t: t),
    (LogitNormal(), logit_normal(0.0, 1.0)),
    (LogitNormal(0.5, 0.6), logit_normal(0.5, 0.6)),
    (Mode(), mode(1.29)),
    (Mode(-0.7), mode(-0.7)),
    (CosMap(), cosmap),
    (LogNormalSigma(), log_normal_sigma),
    (Shifted(), lambda t: t / (3 - 2 * t)),
    (Band(), lambda t: max(t - 0.54, 0) / 0.46),
    (Band(CosMap(), 0.1, 0.3), lambda t: cosmap((t - 0.1) / 0.2)),
    (Shifted(UniformTime(), 0.5), lambda t: t / (0.5 + 0.5 * t)),
]


@pytest.mark.parametrize(
    "times, cdf", CLOSED_FORMS, ids=[repr(times) for times, _ in CLOSED_FORMS]
)
def test_the_distribution_is_the_closed_form(times, cdf):
    time = np.sort(np.asarray(times(jax.random.key(7), (DRAWS,)), np.float64))[::20]
    points = np.clip(time, 1e-9, 1 - 1e-9)
    gap = kstest(points, np.vectorize(cdf)).statistic
    # 1.95 / sqrt(n) is the 0.1% point for n draws; taking every 20th adds 20 / n.
    assert gap < 1.95 / DRAWS**0.5 + 20 / DRAWS


def test_every_index_of_a_chain_is_equally_likely():
    index = np.asarray(DiscreteTime(10)(jax.random.key(0), (DRAWS,))) * 10 - 1
    np.testing.assert_allclose(index, np.round(index), atol=1e-5)
    counts = np.bincount(np.round(index).astype(int), minlength=10)
    assert len(counts) == 10
    assert ((counts - DRAWS / 10) ** 2 / (DRAWS / 10)).sum() < 27.9  # chi^2, 0.1%


def test_the_log_snr_of_cosmap_is_that_of_the_cosine_schedule():
    """With `tan(pi u / 2)` as noise level, u uniform: section 3.1 of the paper."""
    time = CosMap()(jax.random.key(1), (DRAWS,))
    level = np.exp(-np.asarray(log_snr(Linear(), time)) / 2)
    assert kstest(2 / np.pi * np.arctan(level), "uniform").pvalue > 1e-3


def test_edm_trains_on_the_published_noise_levels():
    sigma = EDM()(LogNormalSigma()(jax.random.key(1), (DRAWS,))).sigma
    np.testing.assert_allclose(jnp.log(sigma).mean(), -1.2, atol=0.03)
    np.testing.assert_allclose(jnp.log(sigma).std(), 1.2, atol=0.03)


def test_a_shift_multiplies_the_noise_level_of_rectified_flow():
    time = jnp.linspace(0.01, 0.99, 30)
    moved = shifted(time, 2.5)
    level, before = (np.exp(-log_snr(Linear(), t) / 2) for t in (moved, time))
    np.testing.assert_allclose(level, 2.5 * before, rtol=2e-5)
    np.testing.assert_array_equal(shifted(jnp.array([0.0, 1.0]), 3.0), [0, 1])
    np.testing.assert_allclose(shifted(shifted(time, 2.5), 1 / 2.5), time, rtol=1e-5)


def test_the_shift_of_a_resolution_keeps_the_uncertainty_of_its_mean():
    """A constant image of n values is known to `sigma / alpha / sqrt(n)`."""
    time, (base, tokens) = jnp.float32(0.4), (256, 4096)

    def level(t):
        return np.exp(-log_snr(Linear(), t) / 2)

    moved = shifted(time, resolution_shift(tokens, base))
    np.testing.assert_allclose(
        level(moved) / tokens**0.5, level(time) / base**0.5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DiscreteTime(0), "steps is 0"),
        (lambda: LogitNormal(scale=0.0), "scale is 0.0"),
        (lambda: Mode(1.8), r"scale is 1.8, but it must lie in \[-1"),
        (lambda: Mode(-1.1), "scale is -1.1"),
        (lambda: LogNormalSigma(scale=-1.0), "scale is -1.0"),
        (lambda: LogNormalSigma(sigma_max=0.0), "sigma_max is 0.0"),
        (lambda: Shifted(shift=0.0), "shift is 0.0"),
        (lambda: Band(low=0.5, high=0.5), "low is 0.5 and high 0.5"),
        (lambda: resolution_shift(0, 256), "tokens is 0"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
