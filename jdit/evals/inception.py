# SPDX-License-Identifier: Apache-2.0
"""The Inception score's formula, for the class probabilities of any classifier."""

from itertools import pairwise

import numpy as np
from scipy.special import xlogy

from jdit.evals.statistics import Points, checked


def inception_score(
    probabilities: Points,
    splits: int = 10,
    *,
    size: int | None = None,
    shuffle: int | None = None,
) -> tuple[float, float]:
    """Mean and deviation over splits of `exp(mean KL(p(y|x) || p(y)))`.

    Between 1 (every image read alike) and the number of classes (each read surely, all
    equally often). Salimans et al. 2016, section 4: 10 consecutive splits of equal
    size. Only as good as the classifier: with other
    classifiers than Inception-v3 it is an *inception-like* score.

    size: consecutive parts of so many rows in the place of splits; the last may have
        fewer (ADM's evaluator: 5,000).
    shuffle: a seed, by which rows that are in order of class are mixed first
        (torch-fidelity: 2020).

    Raises ValueError for fewer images than splits, NaN, or rows that do not sum to 1.
    """
    rows = checked(probabilities, "probabilities")
    n = len(rows)
    if splits < 1 or n < splits:
        raise ValueError(
            f"splits is {splits}, but between 1 and the {n} images are needed"
        )
    if size is not None and size < 1:
        raise ValueError(f"size is {size}, but parts must have at least 1 row")
    if (rows < 0).any() or not np.allclose(rows.sum(1), 1, atol=1e-3):
        raise ValueError("probabilities must be positive and each row must sum to 1")
    if shuffle is not None:
        rows = rows[np.random.RandomState(shuffle).permutation(n)]
    cuts = [i * n // splits for i in range(splits + 1)]
    if size is not None:
        cuts = [*range(0, n, size), n]
    scores = []
    for start, stop in pairwise(cuts):
        part = rows[start:stop]
        divergence = xlogy(part, part) - xlogy(part, part.mean(0))
        scores.append(np.exp(divergence.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
