# SPDX-License-Identifier: Apache-2.0
"""DINOv2's features as one feature function, and FD-DINOv2, which is made of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from jdit.encoders import VisionTransformer, load_encoder
from jdit.encoders.resample import resize_positions
from jdit.evals.devices import over_devices
from jdit.evals.fid_features import as_bytes
from jdit.evals.meter import Measured
from jdit.evals.resize import PillowResize, Resize
from jdit.evals.statistics import frechet_distance
from jdit.interop.hub import resolve
from jdit.typing import Array, Float, Params

OFFSET = 0.1
"""Of a patch: by how much the published code scales positions too far."""


@dataclass(frozen=True)
class DINOv2:
    """The normed class token `b d` of a DINOv2: 1,024 features for ViT-L/14.

    A feature function for `jdit.evals`, as dgm-eval defines it (Stein et al., 2023,
    section 3; layer6ai-labs/dgm-eval at 74c79f7): bytes through Pillow's bicubic to
    224 by 224, ImageNet's mean and deviation, and positions as facebookresearch's code
    resizes them, whose scale is (16 + 0.1) / 37 (but 16 / 37 for variants with
    registers), where transformers' is 16 / 37. The published FD-DINOv2 reads ViT-L/14
    without registers. torch-fidelity's "dinov2" resizes as the TensorFlow FID does,
    `resize=TensorFlowResize(224)`: another number.

    path: a folder in transformers' layout, such as facebook/dinov2-large's, or that
        name, which is downloaded once.

    Raises ValueError for images as `InceptionPool` does, for a folder of another
    encoder, and for no path at all.
    """

    path: str | None = None
    resize: Resize = field(default_factory=lambda: PillowResize(224))

    def __call__(self, images: np.ndarray | Array) -> Float[Array, "b d"]:
        pixels = self.resize(as_bytes(images))
        return _compiled(self.path, pixels.shape[1])(pixels)

    def load(self) -> "DINOv2":
        """This, after reading the weights, so that what is wrong shows at once."""
        _load(self.path)
        return self

    @property
    def params(self) -> Params:
        """The weights, for a score's protocol."""
        return _load(self.path)[1]

    def scores(self, fake: Measured, real: Measured) -> dict[str, float]:
        """The score that is named after these features."""
        return {"fd_dinov2": frechet_distance(fake.pool, real.pool)}


def published_positions(
    encoder: VisionTransformer, params: Params, size: int
) -> tuple[VisionTransformer, Params]:
    """The same network for images of one size, positions resized as published."""
    side = size // encoder.patch
    grid, table = encoder.tokens.shape, params["position"]["table"]
    if encoder.registers or grid == (side, side):
        return encoder, params
    first, rest = table[:1], table[1:]
    rows = resize_positions(rest, grid, (side, side), encoder.antialias, OFFSET)
    place = {"table": jnp.concatenate([first, rows])}
    return replace(encoder, size=size), {**params, "position": place}


@functools.lru_cache(maxsize=2)
def _load(path: str | None) -> tuple[VisionTransformer, Params]:
    if path is None:
        raise ValueError(
            "DINOv2 needs the folder of its weights: give --weights FOLDER, or "
            "--weights facebook/dinov2-large"
        )
    encoder, params = load_encoder(resolve(path))
    published = isinstance(encoder, VisionTransformer) and encoder.layer_scale
    if not published or encoder.readout != "class of all":
        raise ValueError(f"{path} is no DINOv2, but a {type(encoder).__name__}")
    return encoder, params


@functools.lru_cache(maxsize=2)
def _compiled(path: str | None, size: int) -> Callable[..., Array]:
    encoder, params = published_positions(*_load(path), size)

    def run(params: Params, pixels: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            pooled = encoder.apply(params, pixels / 127.5 - 1).pooled
        assert pooled is not None  # such is the readout of a DINOv2
        return pooled

    return over_devices(run, params)
