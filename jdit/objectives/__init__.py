# SPDX-License-Identifier: Apache-2.0
"""What is minimised: a sum of terms, each of which may own parameters."""

from jdit.objectives.base import Network, Objective, loss
from jdit.objectives.denoising import (
    Denoising,
    TimeSampling,
    UniformTime,
    UniformWeight,
    Weighting,
)

__all__ = [
    "Denoising",
    "Network",
    "Objective",
    "TimeSampling",
    "UniformTime",
    "UniformWeight",
    "Weighting",
    "loss",
]
