# SPDX-License-Identifier: Apache-2.0
"""How the reverse process is integrated, and on which times."""

from jdit.solvers.ancestral import DDIM, DDPM
from jdit.solvers.base import Ends, Interval, Solver, State, ends, normal
from jdit.solvers.grids import (
    EDMRho,
    Grid,
    Leading,
    Linspace,
    LogSNR,
    Respaced,
    Shifted,
    Sigmoid,
    Stretched,
    Sway,
    Times,
    Trailing,
    TwoSided,
    Uniform,
)
from jdit.solvers.multistep import DPMSolverPP2M, DPMSolverPP2MSDE
from jdit.solvers.ode import Euler, Heun
from jdit.solvers.sde import (
    SBDM,
    Constant,
    Decreasing,
    Diffusion,
    EulerMaruyama,
    IncreasingDecreasing,
    LinearDiffusion,
    SigmaDiffusion,
)
from jdit.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "SBDM",
    "Constant",
    "DPMSolverPP2M",
    "DPMSolverPP2MSDE",
    "Decreasing",
    "Diffusion",
    "EDMRho",
    "Ends",
    "Euler",
    "EulerMaruyama",
    "Grid",
    "Heun",
    "IncreasingDecreasing",
    "Interval",
    "Leading",
    "LinearDiffusion",
    "Linspace",
    "LogSNR",
    "Respaced",
    "SBDM",
    "Shifted",
    "SigmaDiffusion",
    "Sigmoid",
    "Solver",
    "State",
    "Stretched",
    "Sway",
    "Times",
    "Trailing",
    "TwoSided",
    "Uniform",
    "UniPC",
    "ends",
    "normal",
]
