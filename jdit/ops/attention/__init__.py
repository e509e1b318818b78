# SPDX-License-Identifier: Apache-2.0
"""Attention: `attention` and `attention_with_lse` of `api.py`."""

from jdit.ops.attention.api import attention, attention_with_lse

__all__ = ["attention", "attention_with_lse"]
