# SPDX-License-Identifier: Apache-2.0
"""Diffusion transformers in JAX: one library, every published part a composition."""

from jdit.models import DiT, dit, sit
from jdit.objectives import loss
from jdit.sample import sample

__version__ = "0.1.0"

__all__ = ["DiT", "dit", "loss", "sample", "sit"]
