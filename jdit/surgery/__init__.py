# SPDX-License-Identifier: Apache-2.0
"""Changes to a trained model: `(model, params, key) -> (model, params)` (seam 2)."""

from jdit.surgery.base import Chain, Surgery, Targets, dense, kernels, nbytes, rewrite
from jdit.surgery.int8 import Int8, Quantise, Report, report
from jdit.surgery.lora import (
    Adapter,
    LoRA,
    LowRank,
    attach,
    extract,
    merge,
    trainable,
    trainable_factors,
)

__all__ = [
    "Adapter",
    "Chain",
    "Int8",
    "LoRA",
    "LowRank",
    "Quantise",
    "Report",
    "Surgery",
    "Targets",
    "attach",
    "dense",
    "extract",
    "kernels",
    "merge",
    "nbytes",
    "report",
    "rewrite",
    "trainable",
    "trainable_factors",
]
