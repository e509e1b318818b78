# SPDX-License-Identifier: Apache-2.0
"""Published grids, by their published numbers or formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdit.processes import EDM, GVP, Gaussian, Linear, VPLinear, log_snr
from jdit.solvers import (
    EDMRho,
    Leading,
    Linspace,
    LogSNR,
    Respaced,
    Shifted,
    Sigmoid,
    Stretched,
    Sway,
    Trailing,
    TwoSided,
    Uniform,
)

FLOW = Gaussian(Linear())


def indices(grid, steps):
    times = np.asarray(grid(FLOW, steps))[:-1]
    return np.round(times * grid.total - 1).astype(int)[::-1].tolist()


def test_two_sided_times_are_sigmoids_on_both_sides():
    """Up to one affine map, log odds rise by 6 and then by 20 in u; half at 0.6."""
    time = np.asarray(TwoSided()(FLOW, 10), np.float64)
    ends = 1 / (1 + np.exp([3.6, -8.0]))
    risen = ends[0] + (1 - time) * (ends[1] - ends[0])
    odds = np.log(risen / (1 - risen))
    np.testing.assert_allclose(odds[:7], 6 * (np.arange(7) / 10 - 0.6), atol=1e-4)
    np.testing.assert_allclose(odds[6:9], 20 * np.arange(3) / 10, atol=1e-3)


def test_respaced_indices():
    """Both ends are kept, halves are rounded to even: ADM's own example and DiT's."""
    assert indices(Respaced(10), 4) == [0, 3, 6, 9]
    assert indices(Respaced(6), 3) == [0, 2, 5]  # 2.5 goes to 2
    dit = indices(Respaced(1000), 250)
    assert dit[:4] == [0, 4, 8, 12] and dit[-1] == 999 and len(set(dit)) == 250
    assert indices(Respaced(1000), 1000) == list(range(1000))
    assert indices(Respaced(1000), 1) == [999]


def test_leading_and_trailing_indices():
    """Lin et al. (2024), table 2, for 10 of 1,000, counted from 0."""
    assert indices(Leading(1000), 10) == list(range(0, 1000, 100))
    assert indices(Leading(1000, offset=1), 10) == list(range(1, 1000, 100))
    assert indices(Trailing(1000), 10) == list(range(99, 1000, 100))


def test_linspace_indices():
    """The first of the indices 0, 100, 200, ... is left out."""
    assert indices(Linspace(1001), 10) == list(range(100, 1001, 100))
    assert indices(Linspace(1000), 1) == [999]


def test_a_stretched_grid_ends_where_it_is_told():
    """Distances from 1 keep their ratios."""
    plain, times = (np.asarray(g(FLOW, 5)) for g in (Uniform(), Stretched(0.02)))
    assert times[-2] == pytest.approx(0.02) and times[0] == 1
    ratio = (1 - times[1:-1]) / (1 - plain[1:-1])
    np.testing.assert_allclose(ratio, 0.98 / 0.8, rtol=1e-5)
    with pytest.raises(ValueError, match="last is 0"):
        Stretched(0.0)


def test_uniform_with_another_last_step():
    """SiT's 250 steps: 249 equal ones and one of 0.04."""
    times = np.asarray(Uniform(last=0.04)(FLOW, 250))
    np.testing.assert_allclose(np.diff(times)[:-1], -0.96 / 249, atol=1e-6)
    assert times[-2] == pytest.approx(0.04) and times[0] == 1


@pytest.mark.parametrize("path", [EDM(80.0), Linear(), VPLinear()], ids=repr)
def test_edm_levels(path):
    """Equation 5, with sigma / alpha for sigma; the roots are equally spaced."""
    steps = 18
    times = EDMRho(sigma_max=80.0)(Gaussian(path), steps)
    at = path(times[:-1])
    roots = np.asarray(at.sigma / at.alpha, np.float64) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots).mean(), atol=2e-3)
    assert roots[-1] ** 7 == pytest.approx(0.002, rel=2e-2)
    assert roots[0] ** 7 == pytest.approx(80, rel=1e-2)


@pytest.mark.parametrize("path", [GVP(), VPLinear()], ids=repr)
def test_log_snr_steps_are_equal(path):
    times = LogSNR()(Gaussian(path), 12)
    assert times[0] == 1
    steps = np.diff(np.asarray(log_snr(path, times[1:-1])))
    np.testing.assert_allclose(steps, steps.mean(), rtol=2e-2)


def test_shift():
    """Equation 23 of SD3; shifting by s and by 1 / s are inverse."""
    times = Shifted(3.0)(FLOW, 4)
    u = np.asarray([1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(times, 3 * u / (1 + 2 * u), atol=1e-6)
    np.testing.assert_allclose(Shifted(1 / 3, Shifted(3.0))(FLOW, 4), u, atol=1e-6)
    np.testing.assert_allclose(Shifted(jnp.asarray(3.0))(FLOW, 4), times, atol=1e-6)


def test_sigmoid_is_symmetric_and_slow_at_its_ends():
    times = np.asarray(Sigmoid()(FLOW, 10), np.float64)
    np.testing.assert_allclose(times + times[::-1], 1, atol=1e-6)
    assert -np.diff(times)[0] < 0.1 < -np.diff(times)[4]
    np.testing.assert_allclose(
        Sigmoid(tau=1000.0)(FLOW, 10), Uniform()(FLOW, 10), atol=1e-4
    )


def test_sway_spends_steps_on_noise_below_0():
    """At -1, u becomes 1 - cos(pi u / 2): F5-TTS's setting."""
    u = np.linspace(0, 1, 9)
    times = np.asarray(Sway(-1.0)(FLOW, 8))
    np.testing.assert_allclose(times, np.cos(np.pi / 2 * u), atol=1e-6)
    assert times[1] > Uniform()(FLOW, 8)[1] > Sway(0.5)(FLOW, 8)[1]
    np.testing.assert_allclose(Sway(0.0)(FLOW, 8), Uniform()(FLOW, 8), atol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Respaced(10)(FLOW, 11), "steps is 11, but the chain has only 10"),
        (lambda: Leading(10, offset=5)(FLOW, 5), "offset is 5"),
        (lambda: Uniform(first=0.0), "first is 0.0"),
        (lambda: Uniform(last=1.5), "last is 1.5"),
        (lambda: EDMRho(sigma_min=3.0, sigma_max=2.0), "sigma_min and sigma_max"),
        (lambda: EDMRho(rho=0), "rho is 0"),
        (lambda: LogSNR(first=0.1, last=0.2), "first and last"),
        (lambda: Shifted(0.0), "shift is 0.0"),
        (lambda: Sigmoid(start=3.0, end=-3.0), "start must be below end"),
        (lambda: Sway(2.0), "coefficient is 2.0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
