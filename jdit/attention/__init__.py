# SPDX-License-Identifier: Apache-2.0
"""Who attends to whom."""

from jdit.attention.cross_attention import CrossAttention
from jdit.attention.heads import (
    Rotary,
    attend,
    attend_joined,
    attending,
    split_heads,
    turn,
)
from jdit.attention.self_attention import SelfAttention

__all__ = [
    "CrossAttention",
    "Rotary",
    "SelfAttention",
    "attend",
    "attend_joined",
    "attending",
    "split_heads",
    "turn",
]
