# SPDX-License-Identifier: Apache-2.0
"""Weights of other libraries, loaded and saved."""

from jdit.interop.diffusers import (
    from_diffusers,
    process_from_diffusers,
    to_diffusers,
)
from jdit.interop.dit import load_dit, load_sit, save_dit, save_sit
from jdit.interop.lightning_dit import load_lightning_dit, save_lightning_dit
from jdit.interop.pixart import load_pixart, save_pixart
from jdit.interop.schedulers import Scheduler, scheduler_from_diffusers
from jdit.interop.uvit import load_uvit, save_uvit

__all__ = [
    "Scheduler",
    "from_diffusers",
    "load_dit",
    "load_lightning_dit",
    "load_pixart",
    "load_sit",
    "load_uvit",
    "process_from_diffusers",
    "save_dit",
    "save_lightning_dit",
    "save_pixart",
    "save_sit",
    "save_uvit",
    "scheduler_from_diffusers",
    "to_diffusers",
]
