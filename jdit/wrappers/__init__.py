# SPDX-License-Identifier: Apache-2.0
"""Denoisers around denoisers (seam 3), beside guidance."""

from jdit.wrappers.carried import Carried
from jdit.wrappers.shared_encoder import (
    SharedEncoder,
    every,
    sharing_steps,
    similarity,
)

__all__ = ["Carried", "SharedEncoder", "every", "sharing_steps", "similarity"]
