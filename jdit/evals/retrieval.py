# SPDX-License-Identifier: Apache-2.0
"""Whether a sample is nearer to the example that was asked for than to all others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jdit.data import to_uint8
from jdit.data.pipeline import read
from jdit.evals.drawn import Draw
from jdit.evals.evaluation import FeatureEvaluation
from jdit.evals.features import extract


def retrieval(
    real: Float[np.ndarray, "n d"],
    fake: Float[np.ndarray, "m d"],
    asked: Int[np.ndarray, " m"],
    within: int = 1,
) -> float:
    """Share of `fake` with the real example it was asked for among its nearest ones.

    By cosine similarity of features less the mean of the real ones. asked: rows of
    `real`. within: how many are looked at; chance is `within / n`.

    As caption retrieval, it is R-precision (Xu et al., 2018, section 4.1) with the
    captioned examples themselves in the place of their captions.
    """
    mean = real.mean(0)
    unit = [
        (x - mean) / np.maximum(np.linalg.norm(x - mean, axis=1, keepdims=True), 1e-12)
        for x in (real, fake)
    ]
    likeness = unit[1] @ unit[0].T
    own = likeness[np.arange(len(asked)), asked]
    return float(((likeness > own[:, None]).sum(1) < within).mean())


@dataclass(frozen=True)
class Retrieval:
    """The scores of an evaluation of captioned data, and how often what was asked came.

    retrieved, retrieved_in_5: see `retrieval`. retrieved_mirrored: of the real examples
    themselves, mirrored, as a reference: what features can tell apart. chance: of
    `retrieved`.

    inner: an evaluation of a data set that has `conditions` (`jdit.data.Captioned`).
    """

    inner: FeatureEvaluation

    @property
    def dataset(self) -> Any:
        return self.inner.dataset

    def __call__(
        self, draw: Draw, folder: str | Path | None = None
    ) -> dict[str, float]:
        images, numbers = [], []

        def kept(seed: int, labels: Int[np.ndarray, " b"], first: int) -> Any:
            numbers.append(labels)
            images.append(np.asarray(draw(seed, labels, first)))
            return images[-1]

        scores = self.inner(kept, folder)
        batch = self.inner.batch
        fake, asked = to_uint8(np.concatenate(images)), np.concatenate(numbers)
        source = self.dataset.source()
        shown = read(source, np.arange(len(source)))["x_0"]
        real, mirrored, drawn = (
            np.concatenate(list(extract(self.inner.features, x, batch)))
            for x in (shown, shown[:, :, ::-1], fake)
        )
        scores["retrieved"] = retrieval(real, drawn, asked)
        scores["retrieved_in_5"] = retrieval(real, drawn, asked, within=5)
        own = np.arange(len(real))
        scores["retrieved_mirrored"] = retrieval(real, mirrored, own)
        scores["chance"] = 1 / len(real)
        return scores

    def protocol(self, folder: str | Path | None = None) -> dict[str, Any]:
        """That of the evaluation inside, which is all that moves the scores."""
        return self.inner.protocol(folder)

    def line(self, scores: dict[str, float]) -> str:
        """The scores in one line for a person."""
        return (
            f"{self.inner.line(scores)}; {scores['retrieved']:.1%} are nearest to what "
            f"was asked (chance {scores['chance']:.1%}, real images mirrored "
            f"{scores['retrieved_mirrored']:.1%}), {scores['retrieved_in_5']:.1%} "
            "within the nearest 5"
        )
