# SPDX-License-Identifier: Apache-2.0
"""Any published model: what reads a folder or a file of it, and what writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jdit.interop.cogvideox import load_cogvideox, save_cogvideox
from jdit.interop.ddt import load_ddt, load_dit_dh, save_ddt, save_dit_dh
from jdit.interop.dico import load_dico, save_dico
from jdit.interop.diffusers import from_diffusers, to_diffusers
from jdit.interop.dimr import load_dimr, save_dimr
from jdit.interop.files import DType, open_tensors, read_json
from jdit.interop.flux import load_flux, save_flux
from jdit.interop.hunyuan_dit import load_hunyuan_dit, save_hunyuan_dit
from jdit.interop.hunyuan_video import load_hunyuan_video, save_hunyuan_video
from jdit.interop.latte import load_latte, save_latte
from jdit.interop.lavin_dit import load_lavin_dit, save_lavin_dit
from jdit.interop.lightning_dit import load_lightning_dit, save_lightning_dit
from jdit.interop.ltx_video import load_ltx_video, save_ltx_video
from jdit.interop.lumina import (
    load_lumina,
    next_dit_from_diffusers,
    next_dit_to_diffusers,
    save_lumina,
)
from jdit.interop.mmdit import load_mmdit, save_mmdit
from jdit.interop.pixart import load_pixart, save_pixart
from jdit.interop.qwen_image import load_qwen_image, save_qwen_image
from jdit.interop.uvit import load_uvit, save_uvit
from jdit.interop.vdt import load_vdt, save_vdt
from jdit.interop.wan import load_wan, save_wan
from jdit.models import (
    DDT,
    VDT,
    CogVideoX,
    DiCo,
    DiMR,
    DiT,
    DiTDH,
    FlagDiT,
    FlagDiTLabels,
    Flux,
    HunyuanDiT,
    HunyuanVideo,
    Latte,
    LaVinDiT,
    LightningDiT,
    LTXVideo,
    MMDiT,
    PixArt,
    QwenImage,
    UViT,
    Wan,
)
from jdit.typing import Params

Loaded = tuple[Any, Params]


class Family(NamedTuple):
    """How one family is stored.

    folders: diffusers' classes. keys: tensors that a file in the original layout has,
    and no other family's.
    """

    kind: type
    load: Callable[..., Loaded]
    save: Callable[..., None]
    folders: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def _load_lumina(path: str | Path, **config: Any) -> Loaded:
    load = next_dit_from_diffusers if Path(path).is_dir() else load_lumina
    return load(path, **config)


def _save_lumina(path: str | Path, model: Any, params: Params, *, dtype: DType) -> None:
    file = str(path).endswith(".safetensors")
    save = save_lumina if file else next_dit_to_diffusers
    save(path, model, params, dtype=dtype)


FAMILIES = (  # a narrower kind before a wider one
    Family(DiT, from_diffusers, to_diffusers, ("DiTTransformer2DModel",)),
    Family(
        PixArt,
        load_pixart,
        save_pixart,
        ("PixArtTransformer2DModel",),
        ("t_block.1.weight", "y_embedder.y_proj.fc1.weight"),
    ),
    Family(
        MMDiT,
        load_mmdit,
        save_mmdit,
        ("SD3Transformer2DModel",),
        ("joint_blocks.0.x_block.attn.qkv.weight",),
    ),
    Family(
        HunyuanVideo,
        load_hunyuan_video,
        save_hunyuan_video,
        ("HunyuanVideoTransformer3DModel",),
        ("double_blocks.0.img_attn_qkv.weight",),
    ),
    Family(
        Flux,
        load_flux,
        save_flux,
        ("FluxTransformer2DModel",),
        ("double_blocks.0.img_attn.qkv.weight",),
    ),
    Family(
        QwenImage, load_qwen_image, save_qwen_image, ("QwenImageTransformer2DModel",)
    ),
    Family(HunyuanDiT, load_hunyuan_dit, save_hunyuan_dit, ("HunyuanDiT2DModel",)),
    Family(
        FlagDiT,
        _load_lumina,
        _save_lumina,
        ("LuminaNextDiT2DModel",),
        ("cap_embedder.1.weight",),
    ),
    Family(  # not text: found by its labels; saved above, as a FlagDiT
        FlagDiTLabels,
        load_lumina,
        save_lumina,
        (),
        ("y_embedder.embedding_table.weight", "layers.0.attention.wq.weight"),
    ),
    Family(DiTDH, load_dit_dh, save_dit_dh, (), ("s_embedder.proj.weight",)),
    Family(DDT, load_ddt, save_ddt, (), ("final_layer.adaLN_modulation.0.weight",)),
    Family(
        LightningDiT,
        load_lightning_dit,
        save_lightning_dit,
        (),
        ("blocks.0.mlp.w12.weight", "blocks.0.adaLN_modulation.1.weight"),
    ),
    Family(UViT, load_uvit, save_uvit, (), ("in_blocks.0.mlp.fc1.weight",)),
    Family(DiCo, load_dico, save_dico, (), ("down1_2.body.0.weight",)),
    Family(DiMR, load_dimr, save_dimr, (), ("stages.0.input_layer.1.weight",)),
    Family(LaVinDiT, load_lavin_dit, save_lavin_dit, (), ("prompt_embed",)),
    Family(VDT, load_vdt, save_vdt, (), ("blocks.0.temporal_fc.weight",)),
    Family(
        Latte,
        load_latte,
        save_latte,
        ("LatteTransformer3DModel",),
        ("temp_embed", "blocks.0.attn.qkv.weight"),
    ),
    Family(
        Wan,
        load_wan,
        save_wan,
        ("WanTransformer3DModel",),
        ("blocks.0.cross_attn.norm_q.weight",),
    ),
    Family(
        CogVideoX,
        load_cogvideox,
        save_cogvideox,
        ("CogVideoXTransformer3DModel",),
    ),
    Family(
        LTXVideo,
        load_ltx_video,
        save_ltx_video,
        ("LTXVideoTransformer3DModel",),
        ("patchify_proj.weight", "transformer_blocks.0.attn1.q_norm.weight"),
    ),
)
_PREFIXES = ("", "model.diffusion_model.", "ema_denoiser.")


def load_model(path: str | Path, **config: Any) -> Loaded:
    """A model and its parameters from a folder or a file of published weights.

    path: a folder in diffusers' layout (config.json names the class) or of a pipeline
        with a `transformer`; or a .safetensors, .pt or index file in the layout of the
        authors' code, told by its tensors.
    config: what the family's loader takes besides, such as `heads`.

    Weights go where the `placed` block around the call says. Raises FileNotFoundError,
    and ValueError for a class or a layout that no family here has, or that two have.
    """
    path = Path(path)
    if not path.is_dir():
        return _of_file(path, config)
    folder = path
    if not (folder / "config.json").is_file() and (folder / "transformer").is_dir():
        folder = folder / "transformer"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{path} has no config.json, but accepted is a folder of diffusers: of a "
            "model, or of a pipeline with a transformer"
        )
    name = read_json(folder / "config.json").get("_class_name")
    for family in FAMILIES:
        if name in family.folders:
            return family.load(folder, **config)
    known = sorted(name for family in FAMILIES for name in family.folders)
    raise ValueError(
        f"{folder / 'config.json'} is of a {name}, but accepted is one of "
        f"{', '.join(known)}"
    )


def save_model(
    path: str | Path, model: Any, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write a model as its family is published: the inverse of `load_model`.

    path: a folder for families that diffusers has; a file ending in .safetensors for
        the others. What was loaded comes back bitwise.

    Raises ValueError for a model of no family, or one that the layout cannot express.
    """
    for family in FAMILIES:
        if isinstance(model, family.kind):
            family.save(path, model, params, dtype=dtype)
            return
    known = ", ".join(family.kind.__name__ for family in FAMILIES)
    raise ValueError(
        f"model is a {type(model).__name__}, but published layouts are known of {known}"
    )


def _of_file(path: Path, config: dict[str, Any]) -> Loaded:
    keys = open_tensors(path).shapes.keys()

    def has(key: str) -> bool:
        return any(f"{prefix}{key}" in keys for prefix in _PREFIXES)

    for family in FAMILIES:
        if family.keys and all(map(has, family.keys)):
            return family.load(path, **config)
    if has("y_embedder.embedding_table.weight"):
        raise ValueError(
            f"{path} may be of DiT or of SiT, whose layouts are the same: call "
            "jdit.interop.load_dit or load_sit"
        )
    known = ", ".join(family.kind.__name__ for family in FAMILIES if family.keys)
    raise ValueError(f"{path} is in none of the layouts of {known}")
