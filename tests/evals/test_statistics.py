# SPDX-License-Identifier: Apache-2.0
"""Streamed moments and the Frechet distance, against NumPy, SciPy and closed forms."""

import numpy as np
import pytest
import scipy.linalg

from jdit.evals import Statistics, frechet_distance


def normal(seed, n, d, offset=0.0):
    return np.random.default_rng(seed).normal(offset, 1, (n, d))


def covariance(seed, d, rank):
    factor = normal(seed, d, rank)
    return factor @ factor.T


def test_statistics_are_numpys():
    x = normal(0, 50, 7, 3.0)
    statistics = Statistics.of(x)
    np.testing.assert_allclose(statistics.mu, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.sigma, np.cov(x, rowvar=False), rtol=1e-12)
    assert statistics.count == 50


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_stream_gives_the_same_as_one_array(offset):
    """Also where a sum of squares would lose 12 of 16 digits."""
    x = normal(1, 1000, 5, offset)
    streamed = Statistics()
    for part in np.split(x, [1, 1, 2, 70, 999]):  # an empty part among them
        streamed = streamed.update(part)
    whole = Statistics.of(x)
    assert streamed.count == whole.count == 1000
    np.testing.assert_allclose(streamed.mu, whole.mu, rtol=1e-12)
    np.testing.assert_allclose(streamed.sigma, whole.sigma, atol=1e-10)


def test_merge_is_associative_and_commutative():
    a, b, c = (Statistics.of(normal(i, n, 4, i)) for i, n in enumerate((3, 40, 500)))
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    back = c.merge(b).merge(a)
    for other in (right, back):
        np.testing.assert_allclose(left.mu, other.mu, rtol=1e-12)
        np.testing.assert_allclose(left.sigma, other.sigma, rtol=1e-11, atol=1e-12)


def test_a_file_has_the_published_fields(tmp_path):
    statistics = Statistics.of(normal(0, 20, 3))
    statistics.save(tmp_path / "stats.npz")
    loaded = Statistics.load(tmp_path / "stats.npz")
    np.testing.assert_array_equal(loaded.sigma, statistics.sigma)
    assert loaded.count == 20
    foreign = tmp_path / "foreign.npz"  # as ADM writes them, in float32 or float64
    np.savez(foreign, mu=statistics.mu, sigma=statistics.sigma, mu_s=0, sigma_s=0)
    assert frechet_distance(Statistics.load(foreign), statistics) < 1e-12
    with pytest.raises(ValueError, match="has no count"):
        Statistics.load(foreign).update(normal(0, 5, 3))


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(ValueError, match="no field 'sigma'"):
        Statistics.load(path)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(d,\) and \(d, d\)"):
        Statistics.load(path)
    np.savez(path, mu=np.full(2, np.nan), sigma=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="NaN"):
        Statistics.load(path)
    np.savez(path, mu=np.array([{}]), sigma=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="pickle"):
        Statistics.load(path)


def test_distance_of_known_gaussians():
    """Of commuting covariances: |delta|^2 + sum (sqrt a - sqrt b)^2."""
    a, b = np.array([4.0, 1.0, 0.0]), np.array([9.0, 0.25, 1.0])
    delta = np.array([1.0, -2.0, 0.5])
    rotation = np.linalg.qr(normal(3, 3, 3))[0]
    left = Statistics(np.zeros(3), rotation * a @ rotation.T, 10)
    right = Statistics(delta, rotation * b @ rotation.T, 10)
    expected = delta @ delta + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ranks", [(8, 8), (8, 3), (3, 3), (1, 8)])
def test_distance_is_that_of_sqrtm(ranks):
    d = 8
    a, b = (covariance(i, d, rank) for i, rank in enumerate(ranks))
    x, y = Statistics(np.zeros(d), a, 10), Statistics(np.ones(d), b, 10)
    distance = frechet_distance(x, y)
    # the published form; for a singular product, the limit of full-rank ones
    offset = 0 if min(ranks) == d else 1e-13 * np.eye(d)
    root = scipy.linalg.sqrtm((a + offset) @ (b + offset))
    expected = d + np.trace(a + b) - 2 * np.trace(root).real
    assert distance == pytest.approx(expected, rel=1e-6)
    assert distance == pytest.approx(frechet_distance(y, x), rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 400])
def test_identical_and_shuffled_sets_are_at_zero(n):
    """Fewer features than dimensions: the covariance is singular."""
    x = np.abs(normal(0, n, 64)) * 30
    shuffled = np.random.default_rng(1).permutation(x)
    scale = np.trace(Statistics.of(x).sigma)
    for other in (x, shuffled):
        distance = frechet_distance(Statistics.of(x), Statistics.of(other))
        assert 0 <= distance < 1e-12 * scale


def test_constant_features_have_a_distance():
    a, b = Statistics.of(np.zeros((5, 3))), Statistics.of(np.ones((4, 3)))
    assert frechet_distance(a, b) == pytest.approx(3)
    assert frechet_distance(a, Statistics.of(normal(0, 9, 3))) > 0


def test_bad_features_never_become_a_score():
    good = Statistics.of(normal(0, 5, 3))
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of 2 rows"):
        good.update(np.array([[0, np.nan, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        good.update(np.zeros(3))
    with pytest.raises(ValueError, match="3 in one set, 4 in the other"):
        good.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="3 in one set, 4 in the other"):
        frechet_distance(good, Statistics.of(normal(0, 5, 4)))
    with pytest.raises(ValueError, match="second set has 1 features"):
        frechet_distance(good, Statistics.of(np.zeros((1, 3))))
    with pytest.raises(ValueError, match="first set has 0 features"):
        frechet_distance(Statistics(), good)
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(Statistics(np.full(3, np.nan), np.eye(3), 9), good)
