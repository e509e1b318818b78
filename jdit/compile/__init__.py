# SPDX-License-Identifier: Apache-2.0
"""Compiling ahead: a recipe's real program on chips that are not there, a report.

Import it as `from jdit.compile import compile_recipe`.
"""

from jdit.compile.chips import CHIPS, Chip
from jdit.compile.estimate import Choice, Estimate
from jdit.compile.options import Search
from jdit.compile.ranking import rank, ranking
from jdit.compile.report import Exchange, Memory, Refusal, Report, compile_recipe
from jdit.compile.search import Found, Trial, search
from jdit.compile.show import describe, show
from jdit.compile.topology import Topology, topology

__all__ = [
    "CHIPS",
    "Chip",
    "Choice",
    "Estimate",
    "Exchange",
    "Found",
    "Memory",
    "Refusal",
    "Report",
    "Search",
    "Topology",
    "Trial",
    "compile_recipe",
    "describe",
    "rank",
    "ranking",
    "search",
    "show",
    "topology",
]
