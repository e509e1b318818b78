# SPDX-License-Identifier: Apache-2.0
"""Lets these tests use the synthetic data of the contract tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "contracts"))
