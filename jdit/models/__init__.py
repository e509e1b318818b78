# SPDX-License-Identifier: Apache-2.0
"""Backbone families, a file each."""

from jdit.models.dit import DiT, Output, dit, sit

__all__ = ["DiT", "Output", "dit", "sit"]
