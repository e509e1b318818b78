# SPDX-License-Identifier: Apache-2.0
"""The contract of scores: what every one of them must do with any features.

A new score is listed once, as a function of (real, fake) with the direction in which
it is better, and is tested by properties it did not choose.
"""

import numpy as np
import pytest

from jdit.evals import (
    Statistics,
    cmmd,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
    squared_mmd,
)

SCORES = {  # name: (score, +1 if more is better, whether features may be rescaled)
    "frechet": (
        lambda r, f: frechet_distance(Statistics.of(r), Statistics.of(f)),
        -1,
        False,
    ),
    "kid": (squared_mmd, -1, False),
    "kid_subsets": (
        lambda r, f: kernel_distance(r, f, subsets=20, size=100)[0],
        -1,
        False,
    ),
    "cmmd": (cmmd, -1, False),
    "precision": (lambda r, f: precision_recall(r, f)[0], 1, True),
    "recall": (lambda r, f: precision_recall(r, f)[1], 1, True),
    "density": (lambda r, f: density_coverage(r, f)[0], 1, True),
    "coverage": (lambda r, f: density_coverage(r, f)[1], 1, True),
}


def normal(seed, n=200, d=6):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.fixture(params=SCORES)
def name(request):
    return request.param


def test_a_score_is_a_finite_float(name):
    value = SCORES[name][0](normal(0), normal(1))
    assert isinstance(value, float) and np.isfinite(value)


def test_the_inputs_are_left_alone(name):
    real, fake = normal(0), normal(1)
    SCORES[name][0](real, fake)
    np.testing.assert_array_equal(real, normal(0))
    np.testing.assert_array_equal(fake, normal(1))


def test_a_score_is_deterministic_and_blind_to_rotations(name):
    """All compare clouds of points: inner products and distances are all they see."""
    score = SCORES[name][0]
    real, fake = normal(0), normal(1) + 0.5
    rotation = np.linalg.qr(normal(2, 6, 6))[0]
    assert score(real, fake) == score(real, fake)
    assert score(real @ rotation, fake @ rotation) == pytest.approx(score(real, fake))


def test_a_score_is_blind_to_order(name):
    score = SCORES[name][0]
    real, fake = normal(0), normal(1) + 0.5
    tolerance = {"abs": 0.6} if name == "kid_subsets" else {"rel": 1e-9}
    shuffled = np.random.default_rng(3).permutation(fake)
    assert score(real, shuffled) == pytest.approx(score(real, fake), **tolerance)


def test_a_score_is_blind_to_units_where_it_says_so(name):
    score, _, rescales = SCORES[name]
    real, fake = normal(0), normal(1) + 0.5
    same = score(7 * real, 7 * fake) == pytest.approx(score(real, fake))
    assert same == rescales


def test_a_shifted_model_scores_worse(name):
    score, sign, _ = SCORES[name]
    values = [sign * score(normal(0), normal(1) + shift) for shift in (0, 1, 3)]
    assert values[0] > values[1] > values[2]


def test_float32_features_do(name):
    score = SCORES[name][0]
    real, fake = normal(0).astype(np.float32), normal(1).astype(np.float32)
    wide = score(real.astype(np.float64), fake.astype(np.float64))
    assert score(real, fake) == wide


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_never_becomes_a_score(name, bad):
    fake = normal(1)
    fake[17, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        SCORES[name][0](normal(0), fake)


def test_unequal_dimensions_are_refused(name):
    with pytest.raises(ValueError, match="dimension"):
        SCORES[name][0](normal(0), normal(1, 200, 5))


def test_too_few_features_are_refused(name):
    with pytest.raises(ValueError):
        SCORES[name][0](normal(0)[:1], normal(1)[:1])
