# SPDX-License-Identifier: Apache-2.0
"""What images are scored against, and how: the options of `jdit eval`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Against:
    """Score images that were saved: a folder of PNGs, an .npz or an array_record."""

    reference: Path | None = None
    """What to compare with: an .npz of ADM (images, moments or both) or of pytorch-fid,
    torch-fidelity's moments (.pt), a folder of PNGs, or an array_record of them."""
    count: int = 50_000
    """Images to draw."""
    seed: int = 0
    """Of what is drawn: image i depends on the seed and on i alone."""
    labels: Literal["balanced", "random"] = "balanced"
    """Each class as often as the others (image i has label i modulo their number), or
    drawn uniformly, as DiT, SiT and REPA do."""
    features: str = "InceptionPool"
    """The feature net: a part of jdit.evals (InceptionPool, DINOv2, CLIP,
    EfficientNetLite0; I3D for videos), or "module:name" of another."""
    weights: str | None = None
    """File, or folder, of the feature net's weights, or owner/name on the hub; where it
    looks itself if not given."""
    resize: str | None = None
    """A resize of jdit.evals, e.g. CleanResize or TensorFlowResize:224; the feature
    net's own if not given."""
    codec: str | None = None
    """Folder, or owner/name on the hub, of the codec in diffusers' layout that decodes
    what a model of latents draws."""
    rounding: Literal["nearest", "down"] = "nearest"
    """How drawn values become bytes; the code of REPA and RAE rounds down."""
    batch: int | None = None
    """Images drawn, or read, at once; the recipe's if not given."""
    part: int = 2048
    """Images between two states that are kept, from which a stopped run goes on."""
    out: Path | None = None
    """Folder of scores.json, statistics.npz and what is kept meanwhile; named after the
    protocol if not given."""
    prompts: Path | None = None
    """A text file, line i of which image i was asked for: adds the CLIP score, where
    the feature net is CLIP. It needs no reference."""

    paired: Path | None = None
    """A run of the same noise, to compare with image by image: a folder of PNGs, an
    .npz or an array_record. Gives PSNR, SSIM, the relative error and, with --lpips,
    LPIPS; of latents ("x_0" of two .npz, as jdit sample writes them) the relative error
    alone."""
    lpips: Path | None = None
    """AlexNet's weights for LPIPS: torchvision's .pth, which is downloaded there if it
    is not there yet (needs torch, and PyPI's lpips for the heads), or a .safetensors by
    jdit.interop.lpips.save_lpips."""

    def __post_init__(self) -> None:
        for name, least in (("count", 10), ("part", 1), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, but it must be at least {least}")
