# SPDX-License-Identifier: Apache-2.0
"""CogVideoX's text-to-video weights: diffusers' folders, in both directions."""

from pathlib import Path
from typing import Any

from jdit.conditioning import Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType
from jdit.interop.joint import require
from jdit.interop.layout import Layout, Rule, linear, norm, pack, unpack
from jdit.models.cogvideox import CogVideoX, Resized
from jdit.typing import Params

CONFIG = Config(
    names=("CogVideoXTransformer3DModel",),
    fields=dict(
        num_attention_heads=(30, NATURAL),
        attention_head_dim=(64, NATURAL),
        in_channels=(16, NATURAL),
        out_channels=(16, "a positive whole number or null"),
        time_embed_dim=(512, NATURAL),
        text_embed_dim=(4096, NATURAL),
        num_layers=(30, NATURAL),
        sample_width=(90, NATURAL),
        sample_height=(60, NATURAL),
        sample_frames=(49, NATURAL),
        patch_size=(2, NATURAL),
        spatial_interpolation_scale=(1.875, "a number"),
        temporal_interpolation_scale=(1.0, "a number"),
        use_rotary_positional_embeddings=(False, "true or false"),
    ),
    fixed=dict(
        activation_fn="gelu-approximate",
        attention_bias=True,
        flip_sin_to_cos=True,
        freq_shift=0,
        norm_elementwise_affine=True,
        norm_eps=1e-5,
        ofs_embed_dim=None,
        patch_bias=True,
        patch_size_t=None,
        temporal_compression_ratio=4,
        timestep_activation_fn="silu",
        use_learned_positional_embeddings=False,
    ),
    ignored=("dropout", "max_text_seq_length"),
)


def _branch(theirs: str, number: int, ours: str) -> tuple[Rule, ...]:
    """A branch's norm, and both streams' modulations and gates, fused in one matrix."""
    fused = {
        f"{ours}/{stream}/{part}": share
        for stream in ("image", "text")
        for part, share in (("modulation", 2), ("gate", 1))
    }
    return (
        *linear(f"{theirs}.norm{number}.linear", fused),
        *norm(f"{theirs}.norm{number}.norm", f"{ours}/norm"),
    )


def _layout(model: CogVideoX) -> Layout:
    block, attention, mlp = "transformer_blocks.{}", "blocks/attention", "blocks/mlp"
    attn, sizes = f"{block}.attn1", (("p", model.patch), ("q", model.patch))
    return Layout(
        "diffusers' CogVideoXTransformer3DModel",
        (
            *linear("patch_embed.proj", "patch", "d c p q -> (p q c) d"),
            *linear("patch_embed.text_proj", "text"),
            *linear("time_embedding.linear_1", "time/in"),
            *linear("time_embedding.linear_2", "time/out"),
            *_branch(block, 1, attention),
            *linear(tuple(f"{attn}.to_{x}" for x in "qkv"), f"{attention}/qkv"),
            *norm(f"{attn}.norm_q", f"{attention}/q_norm"),
            *norm(f"{attn}.norm_k", f"{attention}/k_norm"),
            *linear(f"{attn}.to_out.0", f"{attention}/out"),
            *_branch(block, 2, mlp),
            *linear(f"{block}.ff.net.0.proj", f"{mlp}/in"),
            *linear(f"{block}.ff.net.2", f"{mlp}/out"),
            *norm("norm_final", "norm"),
            *linear("norm_out.linear", "final/modulation"),
            *norm("norm_out.norm", "final/norm"),
            Rule(
                ("proj_out.weight",),
                (("final/linear/kernel", 1),),
                "(c p q) d -> d (p q c)",
                sizes=sizes,
            ),
            Rule(
                ("proj_out.bias",),
                (("final/linear/bias", 1),),
                "(c p q) -> (p q c)",
                sizes=sizes,
            ),
        ),
    )


def load_cogvideox(path: str | Path, **config: Any) -> tuple[CogVideoX, Params]:
    """A text-to-video CogVideoX and its parameters, from a folder of diffusers.

    path: a folder with CogVideoXTransformer3DModel's config.json, or a pipeline's.
    config: fields of the model in place of those of the folder, such as grid.

    Raises FileNotFoundError, and ValueError naming the field or tensor that is
    unknown, missing or cannot be honoured: those of version 1.5 and of image-to-video
    are not read. Source: diffusers 0.42, cogvideox_transformer_3d.py.
    """
    folder = CONFIG.find(path)
    model = CogVideoX(**_fields(folder) | config)
    return model, unpack(_layout(model), model, open_weights(folder))


def save_cogvideox(
    path: str | Path, model: CogVideoX, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder: the inverse of `load_cogvideox`.

    Raises ValueError naming a field that the layout cannot express.
    """
    require(model, CogVideoX, mlp_ratio=4.0, clock=CogVideoX().clock)
    width = model.dim // model.heads
    frames, height, width_of_grid = model.grid
    if model.rotary is not None:
        base = getattr(model.rotary, "base", (0, 0))
        want = Resized(_axes(width), base)
        if model.rotary != want:
            raise ValueError(
                f"model.rotary is {model.rotary}, but this layout means {want} or None"
            )
        height, width_of_grid = (n * model.patch for n in base)
    config = dict(
        _class_name=CONFIG.names[0],
        num_attention_heads=model.heads,
        attention_head_dim=width,
        in_channels=model.channels,
        out_channels=model.channels,
        time_embed_dim=model.condition,
        text_embed_dim=model.conditioning.features,
        num_layers=model.depth,
        sample_width=width_of_grid,
        sample_height=height,
        sample_frames=4 * (frames - 1) + 1,
        patch_size=model.patch,
        spatial_interpolation_scale=model.spacing[1],
        temporal_interpolation_scale=model.spacing[0],
        use_rotary_positional_embeddings=model.rotary is not None,
        dropout=0.0,
        max_text_seq_length=226,
        **CONFIG.fixed,
    )
    write_folder(path, config, pack(_layout(model), model, params), dtype)


def _axes(width: int) -> tuple[int, int, int]:
    """Channels of a head that frame, row and column turn."""
    return width // 4, width // 8 * 3, width // 8 * 3


def _fields(folder: Path) -> dict[str, Any]:
    fields, where = CONFIG.read(folder), folder / "config.json"
    channels, out = fields["in_channels"], fields["out_channels"]
    if out not in (None, channels):
        raise ValueError(
            f"{where} has in_channels {channels} and out_channels {out}, but only "
            "text-to-video is supported, where they are equal"
        )
    heads, patch = fields["num_attention_heads"], fields["patch_size"]
    width = fields["attention_head_dim"]
    size = fields["sample_height"], fields["sample_width"]
    rotary = None
    if fields["use_rotary_positional_embeddings"]:
        rotary = Resized(_axes(width), (size[0] // patch, size[1] // patch))
    return dict(
        grid=((fields["sample_frames"] - 1) // 4 + 1, *size),
        channels=channels,
        patch=patch,
        dim=heads * width,
        depth=fields["num_layers"],
        heads=heads,
        condition=fields["time_embed_dim"],
        rotary=rotary,
        spacing=(
            float(fields["temporal_interpolation_scale"]),
            float(fields["spatial_interpolation_scale"]),
        ),
        conditioning=Text(fields["text_embed_dim"]),
    )
