# SPDX-License-Identifier: Apache-2.0
"""Weights of other libraries, loaded and saved."""

from jdit.interop.ddt import load_ddt, load_dit_dh, save_ddt, save_dit_dh
from jdit.interop.dico import load_dico, save_dico
from jdit.interop.diffusers import (
    from_diffusers,
    process_from_diffusers,
    to_diffusers,
)
from jdit.interop.dimr import load_dimr, save_dimr
from jdit.interop.dit import load_dit, load_sit, save_dit, save_sit
from jdit.interop.flux import load_flux, save_flux
from jdit.interop.hunyuan_dit import load_hunyuan_dit, save_hunyuan_dit
from jdit.interop.latte import load_latte, save_latte
from jdit.interop.lavin_dit import load_lavin_dit, save_lavin_dit
from jdit.interop.lightning_dit import load_lightning_dit, save_lightning_dit
from jdit.interop.lumina import (
    load_lumina,
    next_dit_from_diffusers,
    next_dit_to_diffusers,
    save_lumina,
)
from jdit.interop.mmdit import load_mmdit, save_mmdit
from jdit.interop.pixart import load_pixart, save_pixart
from jdit.interop.qwen_image import load_qwen_image, save_qwen_image
from jdit.interop.schedulers import Scheduler, scheduler_from_diffusers
from jdit.interop.uvit import load_uvit, save_uvit
from jdit.interop.vdt import load_vdt, save_vdt

__all__ = [
    "Scheduler",
    "from_diffusers",
    "load_ddt",
    "load_dico",
    "load_dimr",
    "load_dit",
    "load_dit_dh",
    "load_flux",
    "load_hunyuan_dit",
    "load_latte",
    "load_lavin_dit",
    "load_lightning_dit",
    "load_lumina",
    "load_mmdit",
    "load_pixart",
    "load_qwen_image",
    "load_sit",
    "load_uvit",
    "load_vdt",
    "next_dit_from_diffusers",
    "next_dit_to_diffusers",
    "process_from_diffusers",
    "save_ddt",
    "save_dico",
    "save_dimr",
    "save_dit",
    "save_dit_dh",
    "save_flux",
    "save_hunyuan_dit",
    "save_latte",
    "save_lavin_dit",
    "save_lightning_dit",
    "save_lumina",
    "save_mmdit",
    "save_pixart",
    "save_qwen_image",
    "save_sit",
    "save_uvit",
    "save_vdt",
    "scheduler_from_diffusers",
    "to_diffusers",
]
