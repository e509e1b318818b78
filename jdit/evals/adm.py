# SPDX-License-Identifier: Apache-2.0
"""The scores of ADM's evaluator, which most published DiT numbers are made with.

FID, sFID, Inception score, precision and recall by the definitions of
openai/guided-diffusion's evaluations/evaluator.py (Dhariwal and Nichol, 2021), over
one pass of the images, and its .npz files.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float

from jdit.encoders.inception import InceptionFeatures
from jdit.evals.features import Images, extract
from jdit.evals.inception import inception_score
from jdit.evals.manifold import precision_recall
from jdit.evals.statistics import Statistics, frechet_distance
from jdit.typing import Array

SPLIT = 5000
"""Images of one part of ADM's Inception score."""


class Inception(Protocol):
    """What ADM's scores are made of: `jdit.evals.InceptionPool`."""

    def all(self, images: np.ndarray | Array) -> InceptionFeatures: ...


@dataclass(frozen=True)
class Measured:
    """What is kept of a set of images: never the images.

    pool, spatial: moments, for FID and sFID; `spatial` is None in a file that has none.
    features: pooled, float32, for precision and recall; None if only moments are known.
    probabilities: float32, for the Inception score; None for a reference.
    """

    pool: Statistics
    spatial: Statistics | None = None
    features: Float[np.ndarray, "n d"] | None = None
    probabilities: Float[np.ndarray, "n k"] | None = None

    def save(self, path: str | Path) -> None:
        """Write the moments as ADM names them: mu, sigma, mu_s, sigma_s.

        pytorch-fid reads the file too. Counts are beside them, which both ignore.
        """
        fields = self.pool.fields()
        if self.spatial is not None:
            fields |= self.spatial.fields("_s")
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **fields)


def measure(images: Images, inception: Inception, batch: int = 64) -> Measured:
    """One pass over a stream of images.

    Host memory grows by 12 kB an image (2,048 features and 1,008 probabilities).

    Raises ValueError for an empty stream, and what `extract` and `inception` raise.
    """

    def joined(images: np.ndarray) -> np.ndarray:
        pool, spatial, logits = map(np.asarray, inception.all(images))
        widths[:] = [pool.shape[1], pool.shape[1] + spatial.shape[1]]
        return np.concatenate([pool, spatial, logits], 1)

    widths: list[int] = []
    pool, spatial = Statistics(), Statistics()
    features, shares = [], []
    for values in _gathered(extract(joined, images, batch)):
        first, second, logits = np.split(values, widths, 1)
        pool, spatial = pool.update(first), spatial.update(second)
        features.append(first.astype(np.float32))
        shares.append(_softmax(logits).astype(np.float32))
    if not features:
        raise ValueError("the stream of images is empty")
    return Measured(pool, spatial, np.concatenate(features), np.concatenate(shares))


def read_reference(
    path: str | Path, inception: Inception | None = None, batch: int = 64
) -> Measured:
    """A reference .npz of ADM (images, moments or both) or of pytorch-fid (moments).

    As in ADM's evaluator, moments in the file count before those of its images (its
    "virtual" files hold the moments of a whole training set and 10,000 images), whose
    features serve precision and recall.

    inception: None if the features of the images are not needed.

    Raises ValueError for a file with neither, and for images without `inception`.
    """
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
    if not names & {"mu", "arr_0"}:
        raise ValueError(
            f"{path} has the fields {', '.join(sorted(names)) or 'none'}, but mu and "
            "sigma, or images in arr_0, are needed"
        )
    measured = None
    if "arr_0" in names and inception is not None:
        measured = measure(npz_images(path, batch), inception, batch)
    if "mu" not in names:
        if measured is None:
            raise ValueError(
                f"{path} holds images without moments: an inception is needed"
            )
        return measured
    spatial = Statistics.load(path, "_s") if "mu_s" in names else None
    features = measured.features if measured is not None else None
    return Measured(Statistics.load(path), spatial, features)


def adm_scores(fake: Measured, reference: Measured) -> dict[str, float]:
    """FID, sFID, the Inception score, precision and recall, where they can be had.

    The Inception score is over consecutive parts of 5,000; precision and recall have
    k = 3. In float64, where ADM's evaluator measures distances in float16: precision
    and recall may differ from its in the third digit.

    Raises ValueError for features of another width, or too few images for a score.
    """
    scores = {"fid": frechet_distance(fake.pool, reference.pool)}
    if fake.spatial is not None and reference.spatial is not None:
        scores["sfid"] = frechet_distance(fake.spatial, reference.spatial)
    if fake.probabilities is not None:
        parts = -(-len(fake.probabilities) // SPLIT)
        scores["inception_score"] = inception_score(
            fake.probabilities, parts, size=SPLIT
        )[0]
    if fake.features is not None and reference.features is not None:
        precision, recall = precision_recall(reference.features, fake.features)
        scores |= {"precision": precision, "recall": recall}
    return scores


def npz_images(path: str | Path, batch: int = 64) -> Iterator[np.ndarray]:
    """The array `arr_0` of an .npz, in parts, without holding it whole.

    Raises ValueError for a file without it, or of another kind than uint8 `n h w 3`.
    """
    with zipfile.ZipFile(path) as archive:
        if "arr_0.npy" not in archive.namelist():
            raise ValueError(f"{path} has no field 'arr_0' of images")
        with archive.open("arr_0.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            if fortran or dtype != np.uint8 or len(shape) != 4:
                raise ValueError(
                    f"arr_0 of {path} is {dtype} of shape {shape}, but uint8 images "
                    "(n, height, width, 3) are needed"
                )
            size = int(np.prod(shape[1:]))
            for start in range(0, shape[0], batch):
                count = min(batch, shape[0] - start)
                data = file.read(count * size)
                if len(data) != count * size:
                    raise ValueError(f"{path} ends before its last image")
                yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _gathered(
    parts: Iterator[np.ndarray], rows: int = 2048
) -> Iterator[Float[np.ndarray, "n d"]]:
    """Parts of at least so many rows: joining moments costs `d^2`, however few."""
    held: list[np.ndarray] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= rows:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)
