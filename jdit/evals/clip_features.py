# SPDX-License-Identifier: Apache-2.0
"""CLIP's features of images and texts, and the scores that are made of them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.encoders import VisionTransformer, load_encoder, load_tokenizer
from jdit.evals.devices import over_devices
from jdit.evals.fid_features import as_bytes
from jdit.evals.kernel import cmmd
from jdit.evals.meter import Measured
from jdit.evals.resize import PillowResize, Resize
from jdit.evals.statistics import Points, checked
from jdit.interop.hub import resolve
from jdit.typing import Array, Float, Params


@dataclass(frozen=True)
class CLIP:
    """CLIP's embeddings of images, of length 1: 768 features for ViT-L/14.

    A feature function for `jdit.evals`. As CMMD reads them (Jayasumana et al., 2024;
    google-research/cmmd): the middle square of the bytes, through Pillow's bicubic to
    the network's own size, CLIP's mean and deviation. The published CMMD reads ViT-L/14
    at 336 pixels.

    path: a folder of a whole CLIP in transformers' layout with its tokeniser, such as
        openai/clip-vit-large-patch14-336's, or that name, which is downloaded once.
    resize: None is `PillowResize` to the size of the network.

    Raises ValueError for images as `InceptionPool` does, for a folder of another
    encoder, and for no path at all.
    """

    path: str | None = None
    resize: Resize | None = None

    def __call__(self, images: np.ndarray | Array) -> Float[Array, "b d"]:
        resize = self.load().resize
        assert resize is not None
        return _compiled(self.path)(resize(as_bytes(images)))

    def load(self) -> "CLIP":
        """This with its resize, after reading the weights."""
        encoder, _ = _load(self.path)
        return replace(self, resize=self.resize or PillowResize(encoder.size, True))

    @property
    def params(self) -> Params:
        """The weights of the image's side, for a score's protocol."""
        return _load(self.path)[1]

    def texts(self, texts: Sequence[str], batch: int = 64) -> Float[np.ndarray, "n d"]:
        """Embeddings of texts, of length 1; what is over 77 tokens is cut off."""
        tokenizer, run = _reader(self.path)
        found = []
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            ids = tokenizer(part + [""] * (batch - len(part))).ids
            found.append(np.asarray(run(ids))[: len(part)])
        return np.concatenate(found)

    def scores(self, fake: Measured, real: Measured) -> dict[str, float]:
        """The scores that are named after these features: CMMD.

        Nothing for a reference of moments alone, which has no features.
        """
        if fake.features is None or real.features is None:
            return {}
        return {"cmmd": cmmd(real.features, fake.features)}


def clip_score(images: Points, texts: Points) -> float:
    """The mean of `100 cos(image, its text)`, 0 if that is negative.

    As torchmetrics has it (functional/multimodal/clip_score.py), and most papers; some
    leave the 100 out. Published with ViT-L/14, or B/16 and B/32: name which.

    images, texts: CLIP's embeddings `n d`, row by row of one pair; their lengths do not
    matter. Raises ValueError for unequal shapes, no rows, NaN, and a zero vector.
    """
    return max(float(100 * _cosines(images, texts).mean()), 0.0)


def clip_s(images: Points, texts: Points) -> float:
    """The mean of `2.5 max(cos(image, its text), 0)`: the metric as first published.

    CLIP-S of Hessel et al., 2021 (section 3), who read ViT-B/32 and begin each text
    with "A photo depicts", which is the caller's. images, texts: as in `clip_score`.
    """
    return float(2.5 * np.maximum(_cosines(images, texts), 0).mean())


def _cosines(images: Points, texts: Points) -> Float[np.ndarray, " n"]:
    a, b = checked(images, "images"), checked(texts, "texts")
    if a.shape != b.shape or not len(a):
        raise ValueError(
            f"images have embeddings of shape {a.shape} and texts of {b.shape}, but "
            "each image needs one text"
        )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not lengths.all():
        raise ValueError("an embedding is zero, so that it has no direction")
    return (a * b).sum(1) / lengths


def _unit(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@functools.lru_cache(maxsize=2)
def _load(path: str | None) -> tuple[VisionTransformer, Params]:
    if path is None:
        raise ValueError(
            "CLIP needs the folder of its weights: give --weights FOLDER, or --weights "
            "openai/clip-vit-large-patch14-336"
        )
    encoder, params = load_encoder(resolve(path), tower="vision")
    if not isinstance(encoder, VisionTransformer) or encoder.projection is None:
        raise ValueError(f"{path} is no CLIP with a projection of images")
    return encoder, params


@functools.lru_cache(maxsize=2)
def _compiled(path: str | None) -> Callable[..., Array]:
    encoder, params = _load(path)

    def run(params: Params, pixels: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            pooled = encoder.apply(params, pixels / 127.5 - 1).pooled
        assert pooled is not None  # it has a projection
        return _unit(pooled)

    return over_devices(run, params)


@functools.lru_cache(maxsize=2)
def _reader(path: str | None) -> tuple[Any, Callable[..., Array]]:
    """The tokeniser and the compiled encoder of texts."""
    _load(path)
    folder = resolve(str(path))
    encoder, params = load_encoder(folder, tower="text")

    def run(params: Params, ids: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            return _unit(encoder.apply(params, ids).pooled)

    tokenizer = load_tokenizer(folder, length=encoder.positions)
    return tokenizer, over_devices(run, params)
