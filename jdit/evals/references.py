# SPDX-License-Identifier: Apache-2.0
"""What scores are made against: a reference's images, its moments, or both."""

from pathlib import Path

import numpy as np

from jdit.evals.adm import fields_of, with_moments
from jdit.evals.images import Moments, Npz, Stored, stored
from jdit.evals.meter import Measured
from jdit.evals.protocol import Protocol

_MARKS = {"features_hash": "feature net", "size": "size of images"}


def reference_at(path: Path) -> Stored | Moments:
    """The reference at a path. Raises FileNotFoundError, and ValueError for no such."""
    if not path.exists():
        raise FileNotFoundError(f"reference is {path}, but there is no such file")
    if path.suffix == ".pt":
        return Moments(path)
    images = stored(path)
    if images is None:
        raise ValueError(
            f"reference is {path}, but it must be an .npz, torch-fidelity's .pt, "
            "an array_record, or a folder of PNGs"
        )
    return images


def reference_run(path: Path) -> Stored:
    """The images of a run that another is compared with, image by image.

    Raises FileNotFoundError, and ValueError for a path of another kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"paired is {path}, but there is no such file")
    images = stored(path)
    if images is None:
        raise ValueError(
            f"paired is {path}, but it must be an .npz, an array_record, or a folder "
            "of PNGs"
        )
    return images


def images_of(
    reference: Stored | Moments, protocol: Protocol, inception: bool
) -> Stored | None:
    """The images that are to be measured of a reference, or None if it has none.

    protocol: that of the samples. inception: whether their net is Inception.

    Raises ValueError for images of another size, and moments of another net, before
    anything is drawn.
    """
    if isinstance(reference, Moments):
        _is_inceptions(inception, reference.path)
        return None
    if isinstance(reference, Npz):
        names = fields_of(reference.path)
        with np.load(reference.path, allow_pickle=False) as file:
            if "mu" in names and "features_hash" not in names:
                _is_inceptions(inception, reference.path)
            for mark in _MARKS.keys() & names:
                if str(file[mark]) != str(protocol[mark]):
                    raise ValueError(
                        f"{reference.path} is a reference of another {_MARKS[mark]}: "
                        f"its {mark} is {file[mark]}, not {protocol[mark]}"
                    )
        if "arr_0" not in names:
            return None
    size = size_of(reference.shape)
    if size != protocol["size"]:
        raise ValueError(
            f"the reference's images are {size}, but the samples are "
            f"{protocol['size']}: compare images of one size"
        )
    return reference


def known(reference: Stored | Moments, found: Measured | None) -> Measured:
    """All that is known of a reference, given what was measured of its images."""
    if isinstance(reference, Moments):
        return Measured(reference.statistics())
    if isinstance(reference, Npz):
        return with_moments(reference.path, found)
    assert found is not None
    return found


def size_of(shape: tuple[int, ...]) -> str:
    """The size of images as a protocol says it: 256x256x3."""
    return "x".join(map(str, shape))


def _is_inceptions(inception: bool, path: Path) -> None:
    """Files of ADM, pytorch-fid and torch-fidelity do not say which net they are of."""
    if not inception:
        raise ValueError(
            f"{path} does not say which feature net its moments are of, so they are "
            "Inception's: give the reference's images"
        )
