# SPDX-License-Identifier: Apache-2.0
"""Diffusion transformers in JAX: one library, every published part a composition."""

from typing import TYPE_CHECKING, Any

from jdit.models import DiT, dit, sit
from jdit.objectives import loss
from jdit.sample import sample

if TYPE_CHECKING:
    from jdit.pipelines import pipeline
    from jdit.pretrained import load, save

__version__ = "0.1.0"

__all__ = ["DiT", "dit", "load", "loss", "pipeline", "sample", "save", "sit"]


def __getattr__(name: str) -> Any:
    """What needs most of the library is imported when it is asked for."""
    if name in ("load", "save"):
        from jdit import pretrained

        return getattr(pretrained, name)
    if name == "pipeline":
        from jdit.pipelines import pipeline

        return pipeline
    raise AttributeError(f"module 'jdit' has no attribute {name!r}")
