# SPDX-License-Identifier: Apache-2.0
"""Data sets, and the pipeline that turns one into batches."""

from jdit.data.arrays import Arrays, Latents, PosteriorMean, PosteriorSample, Rescale
from jdit.data.base import (
    ArraySource,
    Dataset,
    Record,
    Source,
    keys,
    normals,
    to_float,
    to_uint8,
    uniforms,
)
from jdit.data.captions import Captioned
from jdit.data.digits import Digits
from jdit.data.encoded import Either, Encoded
from jdit.data.folder import ImageFolder
from jdit.data.glyphs import Glyphs
from jdit.data.images import Flip, center_crop
from jdit.data.pipeline import Batches, Transform, order, pipeline
from jdit.data.tfds import TFDS

__all__ = [
    "TFDS",
    "ArraySource",
    "Arrays",
    "Batches",
    "Captioned",
    "Dataset",
    "Digits",
    "Either",
    "Encoded",
    "Flip",
    "Glyphs",
    "ImageFolder",
    "Latents",
    "PosteriorMean",
    "PosteriorSample",
    "Record",
    "Rescale",
    "Source",
    "Transform",
    "center_crop",
    "keys",
    "normals",
    "order",
    "pipeline",
    "to_float",
    "to_uint8",
    "uniforms",
]
