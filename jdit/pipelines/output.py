# SPDX-License-Identifier: Apache-2.0
"""Arrays of pixels as images and videos."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jdit.typing import Float


def to_images(x: Float[np.ndarray, "b *t h w c"]) -> list[Any]:
    """PIL images of numbers in [0, 1]; for each video, a list of its frames."""
    if x.ndim == 5:
        return [to_images(video) for video in x]
    pixels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return [Image.fromarray(one) for one in pixels]


def save_video(path: str | Path, frames: list[Image.Image], *, fps: float = 8) -> None:
    """Write frames as an animated .webp, .gif or .png.

    Raises ValueError for no frames, another ending, or fps not above 0.
    """
    path = Path(path)
    if path.suffix not in (".webp", ".gif", ".png"):
        raise ValueError(
            f"path ends in {path.suffix or 'nothing'!r}, but videos are written as "
            ".webp, .gif or .png"
        )
    if not frames or fps <= 0:
        raise ValueError(
            f"there are {len(frames)} frames at fps {fps}, but both must be above 0"
        )
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=1000 / fps, loop=0
    )
