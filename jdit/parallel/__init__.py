# SPDX-License-Identifier: Apache-2.0
"""Many devices: a mesh, rules that split parameters over it, and several processes."""

from jdit.parallel.host import barrier, first, whole
from jdit.parallel.mesh import AXES, Mesh
from jdit.parallel.pins import Pins, pinned
from jdit.parallel.plan import Plan, arrange
from jdit.parallel.processes import Group, group_of, join
from jdit.parallel.ring import Ring
from jdit.parallel.rules import Rules, dp, fsdp, fsdp_tensor
from jdit.parallel.spread import Spread
from jdit.parallel.tokens import SplitTokens
from jdit.parallel.ulysses import Ulysses

__all__ = [
    "AXES",
    "Group",
    "Mesh",
    "Pins",
    "Plan",
    "Ring",
    "Rules",
    "SplitTokens",
    "Spread",
    "Ulysses",
    "arrange",
    "barrier",
    "dp",
    "first",
    "fsdp",
    "fsdp_tensor",
    "group_of",
    "join",
    "pinned",
    "whole",
]
