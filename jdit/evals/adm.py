# SPDX-License-Identifier: Apache-2.0
"""The scores of ADM's evaluator, which most published DiT numbers are made with.

FID, sFID, Inception score, precision and recall by the definitions of
openai/guided-diffusion's evaluations/evaluator.py (Dhariwal and Nichol, 2021), over
one pass of the images, and its .npz files.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from jdit.encoders.inception import InceptionFeatures
from jdit.evals.features import Images
from jdit.evals.inception import inception_score
from jdit.evals.manifold import precision_recall
from jdit.evals.meter import Measured, Meter, read
from jdit.evals.statistics import Statistics, frechet_distance
from jdit.typing import Array

SPLIT = 5000
"""Images of one part of ADM's Inception score."""


class Inception(Protocol):
    """What ADM's scores are made of: `jdit.evals.InceptionPool`."""

    def all(self, images: np.ndarray | Array) -> InceptionFeatures: ...


def measure(images: Images, inception: Inception, batch: int = 64) -> Measured:
    """One pass over a stream of images.

    Host memory grows by 12 kB an image (2,048 features and 1,008 probabilities).

    Raises ValueError for an empty stream, and what `extract` and `inception` raise.
    """
    meter = Meter()
    for values in read(inception, images, batch):
        meter.add(values)
    return meter.measured()


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
    images = None
    if inception is not None and "arr_0" in fields_of(path):
        images = measure(npz_images(path, batch), inception, batch)
    return with_moments(path, images)


def fields_of(path: str | Path) -> set[str]:
    """The names in a reference. Raises ValueError for one without any of use."""
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
    if not names & {"mu", "arr_0"}:
        raise ValueError(
            f"{path} has the fields {', '.join(sorted(names)) or 'none'}, but mu and "
            "sigma, or images in arr_0, are needed"
        )
    return names


def with_moments(path: str | Path, images: Measured | None) -> Measured:
    """A reference's moments, with what was measured of the images in it, if any."""
    names = fields_of(path)
    if "mu" not in names:
        if images is None:
            raise ValueError(
                f"{path} holds images without moments: an inception is needed"
            )
        return images
    spatial = Statistics.load(path, "_s") if "mu_s" in names else None
    features = images.features if images is not None else None
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


def npz_shape(path: str | Path, field: str = "arr_0") -> tuple[int, ...]:
    """The shape of an array of an .npz. Raises ValueError as `npz_images` does."""
    with zipfile.ZipFile(path) as archive, _member(archive, path, field) as file:
        return _header(file, path, field)[0]


def npz_images(
    path: str | Path, batch: int = 64, start: int = 0, field: str = "arr_0"
) -> Iterator[np.ndarray]:
    """The array `arr_0` of an .npz, in parts, without holding it whole.

    start: the first image to give. field: "x_0" for floats, images or latents.

    Raises ValueError for a file without it, or of another kind than uint8 `n h w c`, or
    `n t h w c` for videos; of `x_0`, than floats.
    """
    with zipfile.ZipFile(path) as archive, _member(archive, path, field) as file:
        shape, dtype = _header(file, path, field)
        size = int(np.prod(shape[1:])) * dtype.itemsize
        file.seek(start * size, 1)
        for first in range(start, shape[0], batch):
            count = min(batch, shape[0] - first)
            data = file.read(count * size)
            if len(data) != count * size:
                raise ValueError(f"{path} ends before its last image")
            yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


def _member(archive: zipfile.ZipFile, path: str | Path, field: str) -> IO[bytes]:
    if f"{field}.npy" not in archive.namelist():
        raise ValueError(f"{path} has no field {field!r} of images")
    return archive.open(f"{field}.npy")


def _header(
    file: IO[bytes], path: str | Path, field: str
) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    parse = np.lib.format.read_array_header_1_0
    parse = parse if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(file)
    known = dtype.kind == "f" if field == "x_0" else dtype == np.uint8
    if fortran or not known or (field == "arr_0" and len(shape) not in (4, 5)):
        needed = (
            "floats (n, ..., channels) are needed"
            if field == "x_0"
            else "uint8 images (n, height, width, 3) are needed, or videos "
            "(n, frames, height, width, 3)"
        )
        raise ValueError(f"{field} of {path} is {dtype} of shape {shape}, but {needed}")
    return shape, dtype
