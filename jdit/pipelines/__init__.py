# SPDX-License-Identifier: Apache-2.0
"""Prompts to images: thin compositions of all the other parts."""

from jdit.pipelines.captions import Captions, captioned
from jdit.pipelines.compose import Pipeline, Weights
from jdit.pipelines.folders import pipeline
from jdit.pipelines.lumina_t2i import lumina_t2i
from jdit.pipelines.output import save_video, to_images
from jdit.pipelines.prompts import (
    ClassNames,
    OneText,
    PooledAndText,
    Prompts,
    Templated,
    TextTower,
    ThreeTexts,
    TwoMaskedTexts,
)

__all__ = [
    "Captions",
    "ClassNames",
    "OneText",
    "Pipeline",
    "PooledAndText",
    "Prompts",
    "Templated",
    "TextTower",
    "ThreeTexts",
    "TwoMaskedTexts",
    "Weights",
    "captioned",
    "lumina_t2i",
    "pipeline",
    "save_video",
    "to_images",
]
