# SPDX-License-Identifier: Apache-2.0
"""Qwen-Image's transformer: diffusers' folders, its published layout."""

from pathlib import Path
from typing import Any

from jdit.conditioning import Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType
from jdit.interop.flux import latent_channels
from jdit.interop.joint import diffusers_names, packed, require, stream, swap
from jdit.interop.layout import Layout, linear, pack, same, unpack
from jdit.models.qwen_image import QwenImage
from jdit.tokens.rotary_geometries import Diagonal
from jdit.typing import Params

CONFIG = Config(
    names=("QwenImageTransformer2DModel",),
    fields=dict(
        in_channels=(64, NATURAL),
        out_channels=(16, "a positive whole number or null"),
        num_layers=(60, NATURAL),
        attention_head_dim=(128, NATURAL),
        num_attention_heads=(24, NATURAL),
        joint_attention_dim=(3584, NATURAL),
        axes_dims_rope=((16, 56, 56), "a list of positive whole numbers"),
    ),
    fixed=dict(
        patch_size=2,
        guidance_embeds=False,
        zero_cond_t=False,
        use_additional_t_cond=False,
        use_layer3d_rope=False,
    ),
    ignored=("pooled_projection_dim",),  # of the first published folders; not read
)


def layout() -> Layout:
    """diffusers' QwenImageTransformer2DModel, of any size."""
    block, embed = "transformer_blocks.{}", "time_text_embed.timestep_embedder"
    return Layout(
        "diffusers' QwenImageTransformer2DModel",
        (
            *packed("img_in", "patch"),
            same("txt_norm.weight", "text_norm/scale"),
            *linear("txt_in", "text"),
            *linear(f"{embed}.linear_1", "time/in"),
            *linear(f"{embed}.linear_2", "time/out"),
            *stream(
                "joint_blocks",
                "image",
                **diffusers_names(block, "image", "img_mod.1", "img_mlp"),
            ),
            *stream(
                "joint_blocks",
                "text",
                **diffusers_names(block, "text", "txt_mod.1", "txt_mlp"),
            ),
            *linear("norm_out.linear", "final/modulation", twist=swap),
            *packed("proj_out", "final/linear", read_out=True),
        ),
    )


def load_qwen_image(path: str | Path, **config: Any) -> tuple[QwenImage, Params]:
    """Qwen-Image and its parameters, from a folder of diffusers.

    path: a folder with QwenImageTransformer2DModel's config.json, or a pipeline's.
    config: fields of the model that the folder does not tell, such as grid. Editing
    and layered variants are refused by the field that makes them so.

    Raises FileNotFoundError, and ValueError naming the field or tensor that is
    unknown, missing or cannot be honoured.
    Source: diffusers 0.42, transformer_qwenimage.py.
    """
    folder = CONFIG.find(path)
    fields, where = CONFIG.read(folder), folder / "config.json"
    axes, heads = tuple(fields["axes_dims_rope"]), fields["num_attention_heads"]
    channels, out = fields["in_channels"], fields["out_channels"]
    out = None if out is None else 4 * out
    known = dict(
        channels=latent_channels(where, channels, out, axes),
        dim=heads * fields["attention_head_dim"],
        depth=fields["num_layers"],
        heads=heads,
        geometry=Diagonal(axes),
        conditioning=Text(fields["joint_attention_dim"]),
    )
    model = QwenImage(**known | config)
    return model, unpack(layout(), model, open_weights(folder))


def save_qwen_image(
    path: str | Path, model: QwenImage, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder: the inverse of `load_qwen_image`.

    The grid is not stored. Raises ValueError naming a field that the layout cannot
    express.
    """
    require(model, QwenImage, mlp_ratio=4.0, patch=2, clock=QwenImage().clock)
    require(model, QwenImage, geometry=Diagonal(model.geometry.axes))
    config = dict(
        _class_name=CONFIG.names[0],
        in_channels=4 * model.channels,
        out_channels=model.channels,
        num_layers=model.depth,
        attention_head_dim=model.dim // model.heads,
        num_attention_heads=model.heads,
        joint_attention_dim=model.conditioning.features,
        axes_dims_rope=list(model.geometry.axes),
        **CONFIG.fixed,
    )
    write_folder(path, config, pack(layout(), model, params), dtype)
