# SPDX-License-Identifier: Apache-2.0
"""How data becomes noise, and what is predicted."""

from jdit.processes.gaussian import Gaussian, Prediction, Target, expand
from jdit.processes.paths import Coefficients, Linear, Path

__all__ = [
    "Coefficients",
    "Gaussian",
    "Linear",
    "Path",
    "Prediction",
    "Target",
    "expand",
]
