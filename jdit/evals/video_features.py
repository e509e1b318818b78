# SPDX-License-Identifier: Apache-2.0
"""I3D's features of videos as one feature function, and FVD, which is made of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Shaped

from jdit.encoders.i3d import InceptionI3D
from jdit.evals.devices import over_devices
from jdit.evals.fid_features import as_bytes
from jdit.evals.meter import Measured
from jdit.evals.resize import Resize, TensorFlowResize
from jdit.evals.statistics import frechet_distance
from jdit.interop.i3d import load_i3d
from jdit.typing import Array, Float, Params


@dataclass(frozen=True)
class I3D:
    """I3D's class scores `b 400` of videos `b t h w 3`: those that FVD means.

    A feature function for `jdit.evals`, as the Frechet video distance defines it
    (Unterthiner et al., 2018; google-research/frechet_video_distance): bytes, resized
    frame by frame to 224 by 224 as TensorFlow 1 does (bilinear, squeezed, not
    antialiased), read at `2 pixel / 255 - 1`; the scores before the softmax, averaged
    over time. Of the copies in use, VideoGPT's cuts the middle square and reads
    [-0.5, 0.5], and StyleGAN-V's resizes inside its own program: other numbers.

    path: the weights, see `jdit.interop.i3d.load_i3d`, and `added` too.

    Raises ValueError for other shapes, fewer than 9 frames, values that are not finite
    or outside [-1, 1], and for no path at all.
    """

    path: str | None = None
    resize: Resize = field(default_factory=lambda: TensorFlowResize(224))
    added: float = 1e-3

    def __call__(
        self, images: Shaped[np.ndarray | Array, "b t h w c"]
    ) -> Float[Array, "b d"]:
        shape = np.shape(images)
        if len(shape) != 5:
            raise ValueError(
                f"videos have shape {shape}, but (batch, frames, height, width, 3), or "
                "one channel, is needed"
            )
        frames = as_bytes(rearrange(np.asarray(images), "b t h w c -> (b t) h w c"))
        pixels = rearrange(self.resize(frames), "(b t) h w c -> b t h w c", b=shape[0])
        return _compiled(self.path, self.added)(pixels)

    def load(self) -> "I3D":
        """This, after reading the weights, so that what is wrong shows at once."""
        _load(self.path, self.added)
        return self

    @property
    def params(self) -> Params:
        """The weights, for a score's protocol."""
        return _load(self.path, self.added)[1]

    def scores(self, fake: Measured, real: Measured) -> dict[str, float]:
        """The score that is named after these features."""
        return {"fvd": frechet_distance(fake.pool, real.pool)}


@functools.lru_cache(maxsize=2)
def _load(path: str | None, added: float) -> tuple[InceptionI3D, Params]:
    if path is None:
        raise ValueError("I3D needs the file of its weights: give --weights FILE")
    return load_i3d(Path(path), added=added)


@functools.lru_cache(maxsize=2)
def _compiled(path: str | None, added: float) -> Callable[..., Array]:
    model, params = _load(path, added)

    def run(params: Params, pixels: Array) -> Array:
        return model.apply(params, 2 * pixels / 255 - 1)[0]

    return over_devices(run, params)
