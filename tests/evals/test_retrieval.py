# SPDX-License-Identifier: Apache-2.0
"""Retrieval: exact copies are found, strangers are not, and order decides the rest."""

import numpy as np

from jdit.data import ArraySource
from jdit.evals import FeatureEvaluation, Retrieval, retrieval

REAL = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)


def test_what_was_asked_is_the_nearest():
    asked, real = np.arange(16), np.eye(16)
    assert retrieval(real, real, asked) == 1
    assert retrieval(real, real[::-1], asked) == 0
    mixed = 0.6 * real + 0.4 * np.roll(real, 1, 0)  # the asked, then the one before
    assert retrieval(real, mixed, asked) == 1
    before = np.roll(asked, 1)
    assert retrieval(real, mixed, before) == 0
    assert retrieval(real, mixed, before, within=2) == 1


class Noise:
    sample_shape, classes = (2, 4, 3), None

    def source(self):
        return ArraySource("noise", {"x_0": np.tanh(REAL).reshape(-1, 2, 4, 3)})


def test_the_scores_of_a_model_that_copies_its_data():
    inner = FeatureEvaluation(
        lambda images: images.reshape(len(images), -1), Noise(), samples=20, batch=8
    )
    copies = Noise().source().columns["x_0"]
    scores = Retrieval(inner)(lambda seed, numbers, first: copies[numbers])
    assert scores["retrieved"] == scores["retrieved_in_5"] == 1
    assert scores["chance"] == 1 / 16 and scores["frechet"] < 1
    assert scores["retrieved_mirrored"] < 1
    assert "nearest to what was asked" in Retrieval(inner).line(scores)
    protocol = Retrieval(inner).protocol()
    assert protocol["labels"] == "each example as often as the others"
    assert protocol["count"] == 20
    assert protocol["seed"] == 0 and protocol["rounding"] == "nearest"
    assert len(protocol["reference"]) == 64 and protocol["features_hash"] is None
