# SPDX-License-Identifier: Apache-2.0
"""Whether, where and with what a residual branch is computed (seam 1)."""

from jdit.policies.forecast import Forecast
from jdit.policies.observed import Observed, Tally, branch_flops
from jdit.policies.reuse import Reuse
from jdit.policies.where import Depths, PerBranch
from jdit.stack import Always

__all__ = [
    "Always",
    "Depths",
    "Forecast",
    "Observed",
    "PerBranch",
    "Reuse",
    "Tally",
    "branch_flops",
]
