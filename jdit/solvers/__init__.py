# SPDX-License-Identifier: Apache-2.0
"""How the reverse process is integrated, and on which times."""

from jdit.solvers.base import Interval, Solver, State, normal
from jdit.solvers.grids import Grid, Uniform
from jdit.solvers.ode import Euler

__all__ = ["Euler", "Grid", "Interval", "Solver", "State", "Uniform", "normal"]
