# SPDX-License-Identifier: Apache-2.0
"""Images: decode, crop, resize, mirror. Exact, so that a data set is reproducible."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jdit.data.base import Record, uniforms


@dataclass(frozen=True)
class Flip:
    """Mirror an image left-right with a probability, per example and epoch."""

    probability: float = 0.5

    def __call__(self, batch: Record, keys: NDArray[np.uint64]) -> Record:
        x = batch["x_0"]
        if x.ndim != 4:
            raise ValueError(
                f"Flip needs images of shape (height, width, channels), but x_0 has "
                f"{x.shape[1:]}"
            )
        chosen = (uniforms(keys) < self.probability)[:, None, None, None]
        return {**batch, "x_0": np.where(chosen, x[:, :, ::-1], x)}


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, resized to `size`: how ADM and DiT see ImageNet.

    1. While the short side is at least 2 `size`, halve both with a box filter.
    2. Scale by `size / short side`, bicubic, both sides rounded (half to even).
    3. Cut out `size` x `size` at the offset `(side - size) // 2` from the top left.

    PIL's own resampling (antialiased) is used throughout.

    Source: openai/guided-diffusion, image_datasets.py, `center_crop_arr`, which
    facebookresearch/DiT's train.py shares.
    """
    while min(image.size) >= 2 * size:
        half = (image.size[0] // 2, image.size[1] // 2)
        image = image.resize(half, Image.Resampling.BOX)
    scale = size / min(image.size)
    new = (round(image.size[0] * scale), round(image.size[1] * scale))
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def flatten(image: Image.Image) -> Image.Image:
    """Any PIL image as RGB; transparency becomes white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image.convert("RGB")
