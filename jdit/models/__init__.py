# SPDX-License-Identifier: Apache-2.0
"""Backbone families, a file each."""

from jdit.models.backbone import Backbone, Output
from jdit.models.dit import DiT, dit, sit

__all__ = ["Backbone", "DiT", "Output", "dit", "sit"]
