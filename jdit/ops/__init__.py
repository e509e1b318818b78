# SPDX-License-Identifier: Apache-2.0
"""Operations that have more than one implementation."""

from jdit.ops.attention.api import attention, attention_with_lse

__all__ = ["attention", "attention_with_lse"]
