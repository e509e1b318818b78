# SPDX-License-Identifier: Apache-2.0
"""Compiling ahead: a recipe's real program on chips that are not there, a report.

Import it as `from jdit.compile import compile_recipe`.
"""

from jdit.compile.chips import CHIPS, Chip
from jdit.compile.report import Exchange, Memory, Refusal, Report, compile_recipe
from jdit.compile.show import describe, show
from jdit.compile.topology import Topology, topology

__all__ = [
    "CHIPS",
    "Chip",
    "Exchange",
    "Memory",
    "Refusal",
    "Report",
    "Topology",
    "compile_recipe",
    "describe",
    "show",
    "topology",
]
