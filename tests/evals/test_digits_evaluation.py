# SPDX-License-Identifier: Apache-2.0
"""The classifier of digits, and what the evaluation says of models that are known."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from jdit.data import ArraySource, Digits
from jdit.evals import (
    DigitReader,
    DigitsClassifier,
    DigitsEvaluation,
    FeatureEvaluation,
    distance_of_halves,
)

TRAIN = Digits("train").source().columns


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The classifier is trained once, by the first test that loads it."""
    return tmp_path_factory.mktemp("cache")


ROWS = [np.flatnonzero(TRAIN["label"] == label) for label in range(10)]


def each(seed, labels, first):
    """A generator for each image, of the seed and its number alone."""
    return [np.random.default_rng([seed, first + i]) for i in range(len(labels))]


def copies(seed, labels, first):
    """A model that has learnt its training set by heart."""
    pairs = zip(each(seed, labels, first), labels, strict=True)
    return TRAIN["x_0"][[generator.choice(ROWS[label]) for generator, label in pairs]]


def test_the_classifier_reads_held_out_digits(folder):
    reader = DigitsClassifier().load(folder)
    test = Digits("test").source().columns
    assert reader.accuracy >= 0.97
    assert (reader.read(test["x_0"]) == test["label"]).mean() == reader.accuracy
    assert reader(test["x_0"]).shape == (535, 32)
    np.testing.assert_allclose(reader.probabilities(test["x_0"]).sum(1), 1, rtol=1e-5)


def test_the_cache_is_read_and_broken_files_are_replaced(tmp_path, monkeypatch):
    trained = []

    def train(self):
        trained.append(self)
        kernel = np.full((3, self.width), self.seed, np.float32)
        return DigitReader(self.width, {"Dense_0": {"kernel": kernel}}, 0.98)

    monkeypatch.setattr(DigitsClassifier, "train", train)
    first, second = DigitsClassifier(width=8), DigitsClassifier(width=8, seed=1)
    for _ in range(2):
        for classifier in (first, second):
            reader = classifier.load(tmp_path)
            assert (reader.params["Dense_0"]["kernel"] == classifier.seed).all()
            assert reader.accuracy == 0.98
    assert trained == [first, second]
    files = sorted(tmp_path.glob("*.safetensors"))
    cards = [json.loads(f.with_suffix(".json").read_text()) for f in files]
    assert {card["classifier"]["seed"] for card in cards} == {0, 1}
    content = files[0].read_bytes()
    files[0].write_bytes(content[:50])
    files[1].with_suffix(".json").unlink()
    for classifier in (first, second):
        classifier.load(tmp_path)
    assert len(trained) == 4 and files[0].read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 4  # no scratch files are left


def test_training_is_deterministic():
    quick = DigitsClassifier(steps=3, batch=16, width=8)
    x = TRAIN["x_0"][:5]
    np.testing.assert_array_equal(quick.train()(x), quick.train()(x))


def test_copies_of_the_training_set_are_near_the_real_halves(folder):
    evaluation = DigitsEvaluation()
    scores = evaluation(copies, folder)
    protocol = evaluation.protocol(folder)
    assert protocol["seed"] == 0 and protocol["rounding"] == "nearest"
    assert protocol["features"].startswith("DigitsClassifier(width=32")
    assert len(protocol["features_hash"]) == 12 and protocol["count"] == 2000
    assert scores["accuracy"] >= 0.99
    assert 0.5 < scores["ratio"] < 2
    assert scores["ratio_test_halves"] < scores["ratio"]
    assert scores["ratio"] == scores["frechet"] / scores["frechet_real_halves"]
    assert scores["frechet"] == pytest.approx(scores["frechet_train"], rel=0.3)
    assert scores["coverage"] > 0.95 and 0.8 < scores["density"] < 1.3
    assert scores["inception_score"] > 7
    again = replace(evaluation, batch=333)(copies, folder)  # the batch moves nothing
    assert again == pytest.approx(scores, rel=1e-5)
    line = evaluation.line(scores)
    assert "\n" not in line and f"{scores['ratio']:.2f}x two halves" in line


def test_worse_models_score_worse(folder):
    evaluation = DigitsEvaluation(samples=500, batch=250)

    def noisy(seed, labels, first):
        noise = [g.normal(size=(8, 8, 1)) for g in each(seed + 1, labels, first)]
        return copies(seed, labels, first) + 0.4 * np.stack(noise)

    def blind(seed, labels, first):
        others = [g.integers(10) for g in each(seed + 1, labels, first)]
        return copies(seed, others, first)

    def five(seed, labels, first):
        """Only half of the classes, however they are asked for."""
        return seed, labels % 5, first

    def one(seed, labels, first):
        return np.repeat(TRAIN["x_0"][:1], len(labels), 0)

    good, bad = evaluation(copies, folder), evaluation(noisy, folder)
    assert bad["frechet"] > 4 * good["frechet"]
    assert bad["precision"] < good["precision"] and bad["density"] < good["density"]
    unequal = evaluation(lambda *asked: copies(*five(*asked)), folder)
    assert unequal["ratio"] > 3 * good["ratio"] and unequal["accuracy"] < 0.6
    assert unequal["recall"] < good["recall"] - 0.2
    assert unequal["coverage"] < good["coverage"] - 0.2
    mixed = evaluation(blind, folder)
    assert mixed["accuracy"] < 0.2 and mixed["ratio"] < 2 * good["ratio"]
    collapsed = evaluation(one, folder)
    assert collapsed["recall"] < 0.05 and collapsed["ratio"] > 20
    assert collapsed["inception_score"] == pytest.approx(1)


def test_halves_are_disjoint_and_stratified():
    """Features that say which class: equal halves of each class are at distance 0."""
    labels = np.repeat(np.arange(3), 10)
    assert distance_of_halves(np.eye(3)[labels], labels) < 1e-12
    x = np.random.default_rng(0).normal(size=(4000, 4))
    # the bias of the mean's part alone: tr(sigma) (1/n_a + 1/n_b)
    distance = distance_of_halves(x, np.zeros(4000, int))
    assert 4 * 2 / 2000 * 0.8 < distance < 4 * 2 / 2000 * 3


@dataclass(frozen=True)
class Unlabelled:
    sample_shape = (8, 8, 1)
    classes = None

    def source(self):
        return ArraySource("unlabelled", {"x_0": TRAIN["x_0"][:60]})


@pytest.mark.parametrize("dataset", [Digits("test_a"), Unlabelled()])
def test_any_data_set_in_any_features(dataset):
    asked = []

    def draw(seed, labels, first):
        assert first == sum(map(len, asked))
        asked.append(labels)
        return copies(seed, labels % 10, first)

    def features(images):
        return images[:, 2:4, 2:5, 0].reshape(len(images), -1)

    evaluation = FeatureEvaluation(features, dataset, samples=130, batch=50)
    scores = evaluation(draw)
    assert np.isfinite(list(scores.values())).all()
    assert [len(labels) for labels in asked] == [50, 50, 30]
    if dataset.classes is None:  # each example's number, before any a third time
        assert np.bincount(np.concatenate(asked)).min() == 2
    assert "\n" not in evaluation.line(scores)
    asked.clear()
    other = replace(evaluation, batch=32)  # moves no image, and so no score
    assert other(draw) == pytest.approx(scores, rel=1e-9, abs=1e-12)
    assert other.protocol() == evaluation.protocol()


def test_bad_draws_and_settings_are_refused(folder):
    evaluation = DigitsEvaluation(samples=20, batch=10)
    few = r"draw gave images of shape \(3, 8, 8, 1\), but \(10, 8, 8, 1\) is needed"
    with pytest.raises(ValueError, match=few):
        evaluation(lambda seed, labels, first: copies(seed, labels[:3], first), folder)
    with pytest.raises(ValueError, match="image 0 of seed 0 has NaN"):
        evaluation(lambda *asked: copies(*asked) * np.nan, folder)
    with pytest.raises(ValueError, match="samples is 3"):
        DigitsEvaluation(samples=3)
    with pytest.raises(ValueError, match="batch is 0"):
        FeatureEvaluation(copies, Digits(), batch=0)
