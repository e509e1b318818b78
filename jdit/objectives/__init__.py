# SPDX-License-Identifier: Apache-2.0
"""What is minimised: a sum of terms, each of which may own parameters."""

from jdit.objectives.base import Network, Objective, ask, loss
from jdit.objectives.denoising import Denoising, DenoisingVLB, squared_error
from jdit.objectives.pyramid import Pyramid
from jdit.objectives.self_conditioned import SelfConditioned
from jdit.objectives.sum import Sum, Term
from jdit.objectives.times import (
    Band,
    CosMap,
    DiscreteTime,
    LogitNormal,
    LogNormalSigma,
    Mode,
    Shifted,
    TimeSampling,
    UniformTime,
    resolution_shift,
    shifted,
)
from jdit.objectives.wavelet import HuberWavelet, haar, pseudo_huber
from jdit.objectives.weightings import (
    EDMWeight,
    MinSNR,
    SoftMinSNR,
    UniformWeight,
    Weighting,
)

__all__ = [
    "Band",
    "CosMap",
    "Denoising",
    "DenoisingVLB",
    "DiscreteTime",
    "EDMWeight",
    "HuberWavelet",
    "LogNormalSigma",
    "LogitNormal",
    "MinSNR",
    "Mode",
    "Network",
    "Objective",
    "Pyramid",
    "SelfConditioned",
    "Shifted",
    "SoftMinSNR",
    "Sum",
    "Term",
    "TimeSampling",
    "UniformTime",
    "UniformWeight",
    "Weighting",
    "ask",
    "haar",
    "loss",
    "pseudo_huber",
    "resolution_shift",
    "shifted",
    "squared_error",
]
