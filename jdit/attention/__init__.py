# SPDX-License-Identifier: Apache-2.0
"""Who attends to whom."""

from jdit.attention.self_attention import SelfAttention

__all__ = ["SelfAttention"]
