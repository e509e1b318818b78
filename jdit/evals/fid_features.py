# SPDX-License-Identifier: Apache-2.0
"""The features of FID, sFID and the Inception score, as one feature function."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import flax.linen as nn
import numpy as np
from jaxtyping import UInt8

from jdit.encoders.inception import InceptionFeatures, InceptionV3
from jdit.evals.devices import over_devices
from jdit.evals.digits import cache_folder
from jdit.evals.images import rounded
from jdit.evals.resize import Resize, TensorFlowResize
from jdit.interop.inception import NAME, SHA256, load_inception
from jdit.typing import Array, Float, Params


@dataclass(frozen=True)
class InceptionPool:
    """InceptionV3's pooled features `b 2048`: those that FID means.

    A feature function for `jdit.evals`. Images are bytes, or floats in [-1, 1] that
    are rounded to bytes first, because published scores are made of saved images; one
    channel is repeated to three. Bytes are resized to 299 and read at
    `(pixel - 128) / 128`.

    path: the weights (see `jdit.interop.inception.load_inception`). None is the
        published file in the user's cache, downloaded there once, which torch reads;
        or the .safetensors beside it, if `save_inception` wrote one, without torch.
    resize: `TensorFlowResize()`, or `CleanResize()` for clean-fid's.
    sha256: of the weights, if in a .pth; None takes any, whose scores are no FIDs.

    Raises ValueError for images that are no `b h w 3`, of other channels, not finite,
    or outside [-1, 1].
    """

    path: str | None = None
    resize: Resize = field(default_factory=TensorFlowResize)
    sha256: str | None = SHA256

    def __call__(self, images: np.ndarray | Array) -> Float[Array, "b d"]:
        return self.all(images).pool

    def spatial(self, images: np.ndarray | Array) -> Float[Array, "b s"]:
        """`b 2023`, for sFID."""
        return self.all(images).spatial

    def probabilities(self, images: np.ndarray | Array) -> Float[Array, "b k"]:
        """Of all 1,008 classes, from logits without the bias, for the Inception score.

        As ADM and torch-fidelity read them.
        """
        return nn.softmax(self.all(images).logits)

    @property
    def params(self) -> Params:
        """The weights, for a score's protocol."""
        return _load(*self._key())[1]

    def all(self, images: np.ndarray | Array) -> InceptionFeatures:
        """Everything at once, for the price of one; split over all devices."""
        pixels = self.resize(as_bytes(images))
        return _compiled(*self._key())(pixels)

    def _key(self) -> tuple[Path, str | None]:
        return Path(self.path) if self.path is not None else _cached(), self.sha256


def as_bytes(images: np.ndarray | Array) -> UInt8[np.ndarray, "b h w 3"]:
    """Images as they would be saved; floats in [-1, 1] are rounded to nearest.

    Raises ValueError for another shape, values that are not finite, or outside.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"images have shape {array.shape}, but (batch, height, width, 3), or one "
            "channel, is needed" + "; I3D reads videos" * (array.ndim == 5)
        )
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"images are {array.dtype}, but they must be uint8, or float in [-1, 1]"
            )
        array = rounded(array)
    return np.repeat(array, 3 // array.shape[-1], -1)


def _cached() -> Path:
    path = cache_folder() / NAME
    converted = path.with_suffix(".safetensors")
    return converted if converted.exists() else path


@functools.lru_cache(maxsize=2)
def _load(path: Path, sha256: str | None) -> tuple[InceptionV3, Params]:
    return load_inception(path, sha256)


@functools.lru_cache(maxsize=2)
def _compiled(path: Path, sha256: str | None) -> Callable[..., InceptionFeatures]:
    model, params = _load(path, sha256)

    def run(params: Params, pixels: Array) -> InceptionFeatures:
        return model.apply(params, (pixels - 128) / 128)[0]

    return over_devices(run, params)
