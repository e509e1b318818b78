# SPDX-License-Identifier: Apache-2.0
"""How data becomes noise, and what is predicted."""

from jdit.processes.chains import (
    DDPMCosine,
    DDPMLinear,
    DDPMScaledLinear,
    Discrete,
    ZeroTerminal,
)
from jdit.processes.gaussian import TARGETS, Gaussian, Prediction, Target, expand
from jdit.processes.paths import (
    EDM,
    GVP,
    Coefficients,
    Linear,
    Path,
    Transition,
    log_snr,
    sigma_data,
    time_from_log_snr,
    time_from_sigma,
    transition,
)
from jdit.processes.preserving import Preserving, VPCosine, VPLinear
from jdit.processes.variance import (
    FixedLarge,
    FixedSmall,
    LearnedRange,
    Posterior,
    Variance,
    gaussian_kl,
    pixel_nll,
    posterior,
    vlb,
)

__all__ = [
    "EDM",
    "GVP",
    "TARGETS",
    "Coefficients",
    "DDPMCosine",
    "DDPMLinear",
    "DDPMScaledLinear",
    "Discrete",
    "FixedLarge",
    "FixedSmall",
    "Gaussian",
    "LearnedRange",
    "Linear",
    "Path",
    "Posterior",
    "Prediction",
    "Preserving",
    "Target",
    "Transition",
    "VPCosine",
    "VPLinear",
    "Variance",
    "ZeroTerminal",
    "expand",
    "gaussian_kl",
    "log_snr",
    "pixel_nll",
    "posterior",
    "sigma_data",
    "time_from_log_snr",
    "time_from_sigma",
    "transition",
    "vlb",
]
