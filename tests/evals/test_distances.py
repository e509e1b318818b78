# SPDX-License-Identifier: Apache-2.0
"""KID, precision and recall, density and coverage, the Inception score."""

import tracemalloc

import numpy as np
import pytest

from jdit.evals import (
    clip_s,
    clip_score,
    cmmd,
    density_coverage,
    inception_score,
    kernel,
    kernel_distance,
    precision_recall,
    squared_mmd,
)


def normal(seed, n, d, offset=0.0):
    return np.random.default_rng(seed).normal(offset, 1, (n, d))


def line(*values):
    return np.array(values, float)[:, None]


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """Scores must not depend on how the pairs are cut."""
    if request.param == "many blocks":
        monkeypatch.setattr(kernel, "_BLOCK", 40)


def test_squared_mmd_is_the_sum_over_pairs(blocks):
    a, b = normal(0, 9, 4), normal(1, 13, 4, 0.5)

    def k(x, y):
        return (x @ y / 4 + 1) ** 3

    def within(x):
        n = len(x)
        pairs = [k(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
        return np.mean(pairs)

    expected = within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-10)
    assert squared_mmd(b, a) == pytest.approx(expected, rel=1e-10)


def test_squared_mmd_is_unbiased():
    """Its mean over small sets is the population's value, here from moments.

    In one dimension k(x, y) = (xy + 1)^3, so that the squared MMD is
    sum_i C(3, i) (E x^i - E y^i)^2.
    """
    mean = 0.7  # y ~ N(mean, 1), x ~ N(0, 1)
    moments = np.array([mean, mean**2, mean**3 + 3 * mean])  # differences of
    expected = (np.array([3, 3, 1]) * moments**2).sum()
    values = [
        squared_mmd(normal(2 * i, 4, 1), normal(2 * i + 1, 4, 1, mean))
        for i in range(20_000)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * error
    assert error < expected / 10


def test_kernel_distance_averages_the_subsets():
    a, b = normal(0, 60, 5), normal(1, 80, 5, 0.3)
    mean, deviation = kernel_distance(a, b, subsets=300, size=30)
    assert mean == pytest.approx(squared_mmd(a, b), abs=4 * deviation / np.sqrt(300))
    assert kernel_distance(a, b, subsets=3, size=30) == kernel_distance(
        a, b, subsets=3, size=30
    )
    whole, none = kernel_distance(a, b[:60], subsets=2, size=60)
    assert whole == pytest.approx(squared_mmd(a, b[:60])) and none < 1e-12
    with pytest.raises(ValueError, match="use squared_mmd"):
        kernel_distance(a, b)
    with pytest.raises(ValueError, match="subsets is 0"):
        kernel_distance(a, b, subsets=0)


def test_cmmd_is_the_sum_over_pairs(blocks):
    """All pairs, those with itself among them; also far from zero."""
    a, b = normal(0, 9, 4), normal(1, 13, 4, 0.5)

    def mean(x, y):
        return np.mean([np.exp(-((u - v) ** 2).sum() / 200) for u in x for v in y])

    expected = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert cmmd(a, b) == pytest.approx(expected, rel=1e-9)
    assert cmmd(b + 1e3, a + 1e3) == pytest.approx(expected, rel=1e-9)
    assert cmmd(a, a) < 1e-9


def test_cmmd_of_known_gaussians():
    """E k of N(m, s^2) apart: (1 + 2 s^2 / c^2)^(-d/2) exp(-m^2 / 2 (c^2 + 2 s^2))."""
    m, c, n = 3.0, 2.0, 1500
    both = (1 + 2 / c**2) ** -0.5
    apart = both * np.exp(-(m**2) / (2 * (c**2 + 2)))
    expected = 2 * both - 2 * apart
    found = cmmd(normal(0, n, 1), normal(1, n, 1, m), sigma=c, scale=1)
    assert found == pytest.approx(expected, abs=0.02)


def test_clip_scores_are_cosines():
    image = np.array([[3.0, 0], [1, 1], [1, 0]])
    text = np.array([[1.0, 0], [0, 2], [-1, 0]])
    cosines = np.array([1, np.sqrt(0.5), -1])
    assert clip_score(image, text) == pytest.approx(100 * cosines.mean())
    assert clip_s(image, text) == pytest.approx(2.5 * (1 + np.sqrt(0.5)) / 3)
    assert clip_score(image[2:], text[2:]) == clip_s(image[2:], text[2:]) == 0
    for bad, words in (
        (text[:2], "each image needs one text"),
        (text * np.nan, "NaN"),
        (text * 0, "no direction"),
    ):
        with pytest.raises(ValueError, match=words):
            clip_score(image, bad)


def test_identical_sets_are_precise_and_recalled(blocks):
    x = normal(0, 30, 6) + 1e4  # far from zero: the distances must not cancel
    assert precision_recall(x, x) == (1, 1)
    density, coverage = density_coverage(x, x)
    assert coverage == 1 and density == pytest.approx(1, abs=0.5)


def test_disjoint_sets_are_neither(blocks):
    real, fake = normal(0, 30, 6), normal(1, 20, 6, 100.0)
    assert precision_recall(real, fake) == (0, 0)
    assert density_coverage(real, fake) == (0, 0)


def test_known_balls_on_a_line(blocks):
    """Reals 0, 1, 2, 3, 10 with k = 1 have radii 1, 1, 1, 1, 7."""
    real, fake = line(0, 1, 2, 3, 10), line(0.5, 2.5, 3.5, 40.0)
    # 0.5, 2.5, 3.5 lie in balls; fakes' radii are 2, 1, 1, 36.5 and 40's holds 10
    assert precision_recall(real, fake, k=1) == (3 / 4, 1)
    # 0.5 is in the balls of 0 and 1, 2.5 of 2 and 3, 3.5 of 3 and 10
    density, coverage = density_coverage(real, fake, k=1)
    assert density == 6 / 4 and coverage == 1


def test_edges_of_balls_follow_the_published_code():
    """Closed for precision and recall, open for density and coverage."""
    real, fake = line(0, 1, 5), line(-1.0, 100.0, 200.0)
    assert precision_recall(real, fake, k=1)[0] == pytest.approx(1 / 3)
    assert density_coverage(real, fake, k=1) == (0, 0)


def test_repeated_images_have_balls_of_radius_zero():
    """A model that draws one image for ever covers and recalls nearly nothing."""
    real = normal(0, 40, 3)
    fake = np.repeat(real[:1], 40, 0)
    precision, recall = precision_recall(real, fake)
    assert (precision, recall) == (1, 1 / 40)
    assert density_coverage(real, fake)[1] < 0.3


def test_inception_score_of_known_probabilities():
    sure = np.tile(np.eye(5), (4, 1))
    assert inception_score(sure, splits=4) == pytest.approx((5, 0))
    assert inception_score(np.full((20, 5), 0.2)) == pytest.approx((1, 0))
    one_class = np.tile(np.eye(5)[:1], (20, 1))
    assert inception_score(one_class) == pytest.approx((1, 0))
    # two thirds sure of one of two classes: log 2 minus the entropy
    p = np.tile([[2 / 3, 1 / 3], [1 / 3, 2 / 3]], (5, 1))
    expected = 2 * np.exp(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert inception_score(p, splits=1)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    "score", [squared_mmd, cmmd, precision_recall, density_coverage]
)
def test_bad_features_are_refused(score):
    good = normal(0, 20, 3)
    bad = good.copy()
    bad[4, 1] = np.inf
    with pytest.raises(ValueError, match="in 1 of 20 rows"):
        score(good, bad)
    with pytest.raises(ValueError, match="has 3, .* has 2"):
        score(good, good[:, :2])
    with pytest.raises(ValueError, match="at least"):
        score(good[:1], good)
    with pytest.raises(ValueError, match="features"):
        score(good, good[:0])


def test_bad_arguments_are_refused():
    x = normal(0, 20, 3)
    with pytest.raises(ValueError, match="k is 0"):
        precision_recall(x, x, k=0)
    with pytest.raises(ValueError, match="sigma is 0"):
        cmmd(x, x, sigma=0)
    with pytest.raises(ValueError, match="real has 5 features, .* at least 6"):
        density_coverage(x[:5], x)
    with pytest.raises(ValueError, match="splits is 10, but between 1 and the 4"):
        inception_score(np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score(np.full((20, 2), 0.4))
    with pytest.raises(ValueError, match="NaN"):
        inception_score(np.full((20, 2), np.nan))


def peak(score, *sets):
    tracemalloc.start()
    score(*sets)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("score", [precision_recall, density_coverage, cmmd])
def test_memory_is_that_of_the_sets(monkeypatch, score):
    """No matrix of all pairs, nor its blocks one after the other; no third copy."""
    monkeypatch.setattr("jdit.evals.kernel._BLOCK", 1 << 14)
    many = np.random.default_rng(0).normal(size=(2, 1500, 3))
    assert peak(score, *many) < 1500 * 1500 * 8 / 5
    wide = np.random.default_rng(0).normal(size=(2, 200, 3000))
    assert peak(score, *wide) < 2.6 * wide[0].nbytes
