# SPDX-License-Identifier: Apache-2.0
"""Data sets, and the pipeline that turns one into batches."""

from jdit.data.base import (
    ArraySource,
    Dataset,
    Record,
    Source,
    keys,
    to_float,
    to_uint8,
    uniforms,
)
from jdit.data.digits import Digits
from jdit.data.glyphs import Glyphs
from jdit.data.images import Flip, center_crop
from jdit.data.pipeline import Batches, Transform, order, pipeline

__all__ = [
    "ArraySource",
    "Batches",
    "Dataset",
    "Digits",
    "Flip",
    "Glyphs",
    "Record",
    "Source",
    "Transform",
    "center_crop",
    "keys",
    "order",
    "pipeline",
    "to_float",
    "to_uint8",
    "uniforms",
]
