# SPDX-License-Identifier: Apache-2.0
"""The Inception score's formula, for the class probabilities of any classifier."""

import numpy as np
from scipy.special import xlogy

from jdit.evals.statistics import Points, checked


def inception_score(probabilities: Points, splits: int = 10) -> tuple[float, float]:
    """Mean and deviation over splits of `exp(mean KL(p(y|x) || p(y)))`.

    Between 1 (every image read alike) and the number of classes (each read surely, all
    equally often). Salimans et al. 2016, section 4: 10 consecutive splits of equal
    size. Shuffle rows that are in order of class first, as torch-fidelity does, or
    take one split. Only as good as the classifier: with other
    classifiers than Inception-v3 it is an *inception-like* score.

    Raises ValueError for fewer images than splits, NaN, or rows that do not sum to 1.
    """
    rows = checked(probabilities, "probabilities")
    if splits < 1 or len(rows) < splits:
        raise ValueError(
            f"splits is {splits}, but between 1 and the {len(rows)} images are needed"
        )
    if (rows < 0).any() or not np.allclose(rows.sum(1), 1, atol=1e-3):
        raise ValueError("probabilities must be positive and each row must sum to 1")
    scores = []
    for i in range(splits):
        part = rows[i * len(rows) // splits : (i + 1) * len(rows) // splits]
        divergence = xlogy(part, part) - xlogy(part, part.mean(0))
        scores.append(np.exp(divergence.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
