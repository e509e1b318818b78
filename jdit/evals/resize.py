# SPDX-License-Identifier: Apache-2.0
"""Bytes to the pixels that a feature net reads: the three ways that scores use.

On the host, in float32 and in a fixed order, so that the bits do not depend on the
accelerator: a resize that differs a little is the oldest reason why two FIDs do.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

Image = np.ndarray
"""One image, `h w 3`."""


class Resize(Protocol):
    """Bytes `n h w 3` to float32 pixels `n size size 3` in [0, 255].

    A frozen dataclass: its `repr` is part of a score's protocol.
    """

    def __call__(
        self, images: UInt8[np.ndarray, "n h w 3"]
    ) -> Float[np.ndarray, "n y x 3"]: ...


@dataclass(frozen=True)
class TensorFlowResize:
    """The resize inside the graph of the TensorFlow FID: bilinear, four neighbours.

    Target pixel i reads the source at `i * (source / target)`: neither corners nor
    centres are aligned, and nothing is antialiased (ResizeBilinear of TensorFlow 1
    with align_corners False; Parmar et al., 2022, section 3, on what it does). Of ADM,
    DiT and torch-fidelity. Bit-exact with torch-fidelity's.
    """

    size: int = 299

    def __call__(
        self, images: UInt8[np.ndarray, "n h w 3"]
    ) -> Float[np.ndarray, "n y x 3"]:
        down, across = (_neighbours(side, self.size) for side in images.shape[1:3])

        def one(image: Image) -> Image:
            pixels = image.astype(np.float32)
            low, high, share = across
            left = pixels[:, low]
            rows = left + (pixels[:, high] - left) * share[:, None]
            low, high, share = down
            top = rows[low]
            return top + (rows[high] - top) * share[:, None, None]

        return _each(one, images)


@dataclass(frozen=True)
class CleanResize:
    """clean-fid's: Pillow's antialiased bicubic, each channel in float, then clipped.

    Parmar et al., 2022 (section 3). Scores made with it are "clean" FIDs and compare
    with each other only.
    """

    size: int = 299

    def __call__(
        self, images: UInt8[np.ndarray, "n h w 3"]
    ) -> Float[np.ndarray, "n y x 3"]:
        from PIL import Image as Pillow

        def channel(values: np.ndarray) -> np.ndarray:
            plane = Pillow.fromarray(np.ascontiguousarray(values, np.float32))
            plane = plane.resize((self.size, self.size), Pillow.Resampling.BICUBIC)
            return np.asarray(plane).clip(0, 255)

        return _each(
            lambda x: np.stack([channel(x[..., c]) for c in range(3)], -1), images
        )


@dataclass(frozen=True)
class PillowResize:
    """Pillow's antialiased bicubic on bytes, rounded to bytes again.

    What DINOv2's and CLIP's published preprocessing does to an image before it becomes
    numbers; of dgm-eval's FD-DINOv2 and of CMMD.

    crop: of an image that is not square, the middle square is read (CMMD's loader, in
        this order: cut, then resized); False squeezes it (dgm-eval).
    """

    size: int
    crop: bool = False

    def __call__(
        self, images: UInt8[np.ndarray, "n h w 3"]
    ) -> Float[np.ndarray, "n y x 3"]:
        from PIL import Image as Pillow

        height, width = images.shape[1:3]
        if self.crop:
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            images = images[:, top : top + side, left : left + side]

        def one(image: Image) -> Image:
            picture = Pillow.fromarray(np.ascontiguousarray(image))
            size = (self.size, self.size)
            return np.asarray(picture.resize(size, Pillow.Resampling.BICUBIC))

        return _each(one, images).astype(np.float32)


def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each target: the lower and the upper source, and the share of the upper."""
    place = np.arange(target, dtype=np.float32) * np.float32(source / target)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, source - 1), place - low.astype(np.float32)


def _each(one: Callable[[Image], Image], images: np.ndarray) -> np.ndarray:
    """A function of one image over all, on threads: numpy and Pillow free the lock."""
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, images)))
