# SPDX-License-Identifier: Apache-2.0
"""How data becomes tokens with coordinates, and back."""

from jdit.tokens.patch import Patches
from jdit.tokens.positions import rotary_table, rotate, sincos

__all__ = ["Patches", "rotary_table", "rotate", "sincos"]
