# SPDX-License-Identifier: Apache-2.0
"""Diffusion transformers in JAX: one library, every published part a composition."""

from typing import TYPE_CHECKING, Any

from jdit.models import DiT, dit, sit
from jdit.objectives import loss
from jdit.sample import sample

if TYPE_CHECKING:
    from jdit.pretrained import load

__version__ = "0.1.0"

__all__ = ["DiT", "dit", "load", "loss", "sample", "sit"]


def __getattr__(name: str) -> Any:
    """`jdit.load`, imported when it is asked for: it needs the checkpoint library."""
    if name == "load":
        from jdit.pretrained import load

        return load
    raise AttributeError(f"module 'jdit' has no attribute {name!r}")
