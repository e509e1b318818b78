# SPDX-License-Identifier: Apache-2.0
"""Parts of a recipe that score a trained model by the images it draws."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from jdit.data import Digits, to_float
from jdit.evals.digits import DigitsClassifier
from jdit.evals.drawn import Draw, Drawn
from jdit.evals.features import Features, Reference, compare, evaluate, extract
from jdit.evals.inception import inception_score
from jdit.evals.statistics import Statistics, frechet_distance


class Evaluation(Protocol):
    """Scores of what `draw` generates, and one line that says them.

    folder: where what had to be made for it may be kept; the user's cache if None.

    One may have a method `protocol(folder)` too: what of it moves the scores, by name,
    as `jdit.evals.protocol` has it, beside what is said of the model and its sampling.
    """

    def __call__(
        self, draw: Draw, folder: str | Path | None = None
    ) -> dict[str, float]: ...

    def line(self, scores: dict[str, float]) -> str: ...


def distance_of_halves(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], splits: int = 20
) -> float:
    """The Frechet distance between two disjoint halves of one set, averaged.

    What a perfect model would score by chance alone. The set is cut in two at random
    within each class, `splits` times (seeded): one cut varies by about 10%.
    """
    distances = []
    for seed in range(splits):
        generator = np.random.default_rng(seed)
        shuffled = generator.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        halves = features[by_class[::2]], features[by_class[1::2]]
        distances.append(frechet_distance(*map(Statistics.of, halves)))
    return float(np.mean(distances))


@dataclass(frozen=True)
class DigitsEvaluation:
    """Digits read by a separately trained classifier, and compared in its features.

    Labels are asked for in equal numbers. The scores:

    accuracy: share of samples that the classifier reads as the class asked for.
    frechet: distance of all samples to the 535 held-out digits.
    frechet_real_halves: the mean distance between two disjoint halves (898 and 899)
        of all real digits. The sampling bias of a Frechet distance goes as
        1/n_a + 1/n_b, and is most of it here: 0.0022 for these halves, 0.0024 for
        2,000 samples against 535. So a perfect model has a ratio of about 1.
    ratio: frechet / frechet_real_halves.
    frechet_test_halves: the same between halves of the *held-out* digits (267 and
        268). At sums of 0.0075 it is 3-4 times larger: an easier measure.
    ratio_test_halves: frechet / frechet_test_halves.
    frechet_train: distance of the 1,262 training digits to the held-out ones: what a
        model that copies its training set would score.
    kid, precision, recall, density, coverage: of samples against held-out digits, see
        `jdit.evals.compare`.
    inception_score: of the classifier's probabilities, one split; at most 10.
    classifier_accuracy: on held-out digits, the most `accuracy` could mean.

    samples: how many are drawn; batch: how many at once, which moves no score; seed:
    image i depends on it and on i alone.
    """

    samples: int = 2000
    batch: int = 500
    seed: int = 0
    classifier: DigitsClassifier = field(default_factory=DigitsClassifier)

    def __post_init__(self) -> None:
        _at_least(self.samples, self.batch)

    def __call__(
        self, draw: Draw, folder: str | Path | None = None
    ) -> dict[str, float]:
        """Draw, read and compare. The classifier is trained, or read from `folder`."""
        reader = self.classifier.load(folder)
        asked = np.arange(self.samples, dtype=np.int32) % 10
        drawn = Drawn(draw, asked, Digits().sample_shape, self.seed)
        images = to_float(np.concatenate(list(drawn.stream(0, self.batch))))
        probabilities = reader.probabilities(images)
        train, test = (Digits(s).source().columns for s in ("train", "test"))
        real = np.concatenate(list(extract(reader, test["x_0"])))
        seen = np.concatenate(list(extract(reader, train["x_0"])))
        fake = np.concatenate(list(extract(reader, images)))
        held_out = Statistics.of(real)
        frechet = frechet_distance(Statistics.of(fake), held_out)
        labels = np.concatenate([train["label"], test["label"]])
        halves = distance_of_halves(np.concatenate([seen, real]), labels)
        test_halves = distance_of_halves(real, test["label"])
        return {
            "accuracy": float((probabilities.argmax(1) == asked).mean()),
            "frechet": frechet,
            "frechet_real_halves": halves,
            "ratio": frechet / halves,
            "frechet_test_halves": test_halves,
            "ratio_test_halves": frechet / test_halves,
            "frechet_train": frechet_distance(Statistics.of(seen), held_out),
            **compare(real, fake),
            "inception_score": inception_score(probabilities, splits=1)[0],
            "classifier_accuracy": reader.accuracy,
        }

    def protocol(self, folder: str | Path | None = None) -> dict[str, Any]:
        """What of this moves the scores: labels, seeds, the classifier, the digits."""
        from jdit.evals.nets import net_fields  # they know this package by name

        reader = self.classifier.load(folder)
        test = Digits("test").source().columns["x_0"]
        counts = _counts("each of 10 equally often", self)
        named = net_fields(reader) | {"features": repr(self.classifier)}
        return {**counts, **named, "reference": _hash(test)}

    def line(self, scores: dict[str, float]) -> str:
        """The scores in one line for a person."""
        return (
            f"{self.samples:,} samples: {scores['accuracy']:.1%} read as asked "
            f"(classifier: {scores['classifier_accuracy']:.1%} on real digits), "
            f"Frechet {scores['frechet']:.2f} = {scores['ratio']:.2f}x two halves of "
            f"real digits ({scores['frechet_real_halves']:.2f}), "
            f"{scores['ratio_test_halves']:.2f}x halves of the held-out ones "
            f"({scores['frechet_test_halves']:.2f}); {_manifolds(scores)}"
        )


@dataclass(frozen=True)
class FeatureEvaluation:
    """Any image data set, compared in any features: `jdit.evals.evaluate`'s scores.

    Beside them: "frechet_real_halves" and "ratio", the yardstick of `DigitsEvaluation`
    for the real images of `dataset` (sizes may not match: see there). With as many
    dimensions as images the Frechet distance is mostly bias; KID, unbiased, is the
    score to compare then.

    features: images to features, e.g. `jdit.evals.EfficientNetLite0()`.
    dataset: the real images. Labels are asked for as often as they occur in it; in
        a set without labels, `draw` is given the numbers of examples in it instead,
        whose conditions it may look up.
    samples, batch, seed: as in `DigitsEvaluation`.
    """

    features: Features
    dataset: Any  # a jdit.data.Dataset; `Any` lets the command line set its fields
    samples: int = 2000
    batch: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(self.samples, self.batch)

    def __call__(
        self, draw: Draw, folder: str | Path | None = None
    ) -> dict[str, float]:
        """Draw, and compare with every image of the data set."""
        source = self.dataset.source()
        labels = np.arange(len(source))
        if self.dataset.classes is not None:
            labels = np.array([source[i]["label"] for i in range(len(source))])

        def images() -> Iterator[np.ndarray]:
            for start in range(0, len(source), self.batch):
                stop = min(start + self.batch, len(source))
                part = np.stack([source[i]["x_0"] for i in range(start, stop)])
                yield to_float(part) if part.dtype == np.uint8 else part

        reference = Reference.of(images(), self.features, self.batch)
        assert reference.features is not None
        generator = np.random.default_rng(self.seed)
        # whole passes over the data set, then a part of one without repeats
        passes = -(-self.samples // len(labels))
        order = [generator.permutation(len(labels)) for _ in range(passes)]
        asked = labels[np.concatenate(order)[: self.samples]].astype(np.int32)
        drawn = Drawn(draw, asked, tuple(self.dataset.sample_shape), self.seed)
        fakes = drawn.stream(0, self.batch)
        scores = evaluate(fakes, self.features, reference, self.batch)
        classes = labels if self.dataset.classes is not None else np.zeros_like(labels)
        halves = distance_of_halves(reference.features, classes, splits=3)
        scores["frechet_real_halves"] = halves
        scores["ratio"] = scores["frechet"] / halves if halves else float("inf")
        return scores

    def protocol(self, folder: str | Path | None = None) -> dict[str, Any]:
        """What of this moves the scores: labels, seeds, the net, the real images."""
        from jdit.evals.nets import net_fields  # they know this package by name

        source = self.dataset.source()
        images = (source[i]["x_0"] for i in range(len(source)))
        labelled = self.dataset.classes is not None
        alike = "each example as often as the others"
        counts = _counts("as often as in the data" if labelled else alike, self)
        return {**counts, **net_fields(self.features), "reference": _hash(images)}

    def line(self, scores: dict[str, float]) -> str:
        """The scores in one line for a person."""
        return (
            f"{self.samples:,} samples: Frechet {scores['frechet']:.2f} = "
            f"{scores['ratio']:.2f}x two halves of real images "
            f"({scores['frechet_real_halves']:.2f}); {_manifolds(scores)}"
        )


def _counts(labels: str, part: Any) -> dict[str, Any]:
    return {
        "labels": labels,
        "seed": part.seed,
        "rounding": "nearest",
        "count": part.samples,
    }


def _hash(images: Iterable[np.ndarray]) -> str:
    """The SHA-256 of images, one after another."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _manifolds(scores: dict[str, float]) -> str:
    names = ("precision", "recall", "density", "coverage")
    parts = [f"KID {scores['kid']:.4f}", *(f"{n} {scores[n]:.2f}" for n in names)]
    return ", ".join(parts)


def _at_least(samples: int, batch: int) -> None:
    if samples < 10:
        raise ValueError(f"samples is {samples}, but scores need at least 10")
    if batch < 1:
        raise ValueError(f"batch is {batch}, but at least 1 is needed")
