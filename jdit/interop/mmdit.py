# SPDX-License-Identifier: Apache-2.0
"""SD3 and SD3.5 transformers: diffusers' folders and Stability's own files."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from jdit.conditioning import Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.joint import (
    diffusers_names,
    layers_of,
    modulations,
    norms,
    require,
    stream,
    swap,
    without_prefix,
)
from jdit.interop.layout import Layout, Rule, Twist, linear, numbered, pack, unpack
from jdit.models.mmdit import MMDiT
from jdit.tokens import Patches, sincos
from jdit.typing import Params

CONFIG = Config(
    names=("SD3Transformer2DModel",),
    fields=dict(
        sample_size=(128, NATURAL),
        patch_size=(2, NATURAL),
        in_channels=(16, NATURAL),
        num_layers=(18, NATURAL),
        attention_head_dim=(64, NATURAL),
        num_attention_heads=(18, NATURAL),
        joint_attention_dim=(4096, NATURAL),
        caption_projection_dim=(1152, NATURAL),
        pooled_projection_dim=(2048, NATURAL),
        out_channels=(16, "a positive whole number or null"),
        pos_embed_max_size=(96, NATURAL),
        dual_attention_layers=((), "a list of whole numbers"),
        qk_norm=(None, "a string or null"),
    ),
)


def table(model: MMDiT) -> np.ndarray:
    """The positions of `max_size` rows and columns, as they are stored: `1 n d`."""
    whole = Patches((model.max_size,) * 2, 1).coordinates()
    points = np.asarray(whole, np.float32) / np.float32(model.spacing)
    return np.asarray(sincos(points - np.float32(model.offset), model.dim))[None]


def _diffusers_block(model: MMDiT, stage: str) -> tuple[Rule, ...]:
    block, attention = "transformer_blocks.{}", f"{stage}/attention"
    names = {
        name: diffusers_names(block, name, *rest, qk_norm=model.qk_norm)
        for name, *rest in (
            ("image", "norm1.linear", "ff"),
            ("text", "norm1_context.linear", "ff_context"),
        )
    }
    if stage != "dual_blocks":
        rules = stream(stage, "image", **names["image"])
    else:
        attn, dual = f"{block}.attn2", f"{attention}/dual"
        scales = f"{attn}.norm_q.weight", f"{attn}.norm_k.weight"
        rules = (
            *stream(stage, "image", **names["image"], more=modulations(dual)),
            *linear(tuple(f"{attn}.to_{x}" for x in "qkv"), f"{dual}/qkv"),
            *(norms(scales, dual) if model.qk_norm else ()),
            *linear(f"{attn}.to_out.0", f"{dual}/out"),
        )
    text = names["text"]
    if stage == "last_blocks":
        return rules + _read_text(text, twist=swap)
    return rules + stream(stage, "text", **text)


def _read_text(names: Mapping[str, Any], twist: Twist | None) -> tuple[Rule, ...]:
    """The text of the last layer: only read."""
    ours = "last_blocks/attention/text"
    return (
        *linear(names["modulation"], f"{ours}/modulation", twist=twist),
        *linear(names["qkv"], f"{ours}/qkv"),
        *(norms(names["qk_norm"], ours) if names["qk_norm"] else ()),
    )


def _original_block(model: MMDiT, stage: str) -> tuple[Rule, ...]:
    def scales(key: str) -> tuple[str, str] | None:
        return (f"{key}.ln_q.weight", f"{key}.ln_k.weight") if model.qk_norm else None

    def names(block: str) -> dict[str, Any]:
        key = f"joint_blocks.{{}}.{block}"
        return dict(
            modulation=f"{key}.adaLN_modulation.1",
            qkv=f"{key}.attn.qkv",
            qk_norm=scales(f"{key}.attn"),
            out=f"{key}.attn.proj",
            mlp=(f"{key}.mlp.fc1", f"{key}.mlp.fc2"),
        )

    image, text = names("x_block"), names("context_block")
    if stage == "last_blocks":
        return stream(stage, "image", **image) + _read_text(text, twist=None)
    rules = stream(stage, "text", **text)
    if stage == "joint_blocks":
        return rules + stream(stage, "image", **image)
    dual, key = "dual_blocks/attention/dual", "joint_blocks.{}.x_block.attn2"
    own = scales(key)
    return (
        *rules,
        *stream(stage, "image", **image, more=modulations(dual)),
        *linear(f"{key}.qkv", f"{dual}/qkv"),
        *(norms(own, dual) if own else ()),
        *linear(f"{key}.proj", f"{dual}/out"),
    )


def _stages(model: MMDiT, make: Callable[..., tuple[Rule, ...]]) -> list[Rule]:
    rules: list[Rule] = []
    first = 0
    for stage in model.stages:
        rules += numbered(make(model, stage.name), first)
        first += stage.depth
    return rules


def diffusers_layout(model: MMDiT) -> Layout:
    """diffusers' SD3Transformer2DModel of this size."""
    return Layout(
        "diffusers' SD3Transformer2DModel",
        (
            *linear("pos_embed.proj", "patch", "d c p q -> (p q c) d"),
            *linear("context_embedder", "text"),
            *linear("time_text_embed.timestep_embedder.linear_1", "time/in"),
            *linear("time_text_embed.timestep_embedder.linear_2", "time/out"),
            *linear("time_text_embed.text_embedder.linear_1", "pooled/in"),
            *linear("time_text_embed.text_embedder.linear_2", "pooled/out"),
            *_stages(model, _diffusers_block),
            *linear("norm_out.linear", "final/modulation", twist=swap),
            *linear("proj_out", "final/linear"),
        ),
        tables={"pos_embed.pos_embed": table},
        written=("pos_embed.pos_embed",),
    )


def original_layout(model: MMDiT) -> Layout:
    """Stability's own names, without the prefix of its files."""
    return Layout(
        "the published SD3 layout",
        (
            *linear("x_embedder.proj", "patch", "d c p q -> (p q c) d"),
            *linear("context_embedder", "text"),
            *linear("t_embedder.mlp.0", "time/in"),
            *linear("t_embedder.mlp.2", "time/out"),
            *linear("y_embedder.mlp.0", "pooled/in"),
            *linear("y_embedder.mlp.2", "pooled/out"),
            *_stages(model, _original_block),
            *linear("final_layer.adaLN_modulation.1", "final/modulation"),
            *linear("final_layer.linear", "final/linear"),
        ),
        tables={"pos_embed": table},
        written=("pos_embed",),
    )


def load_mmdit(path: str | Path, **config: Any) -> tuple[MMDiT, Params]:
    """SD3 or SD3.5 and its parameters, from a folder of diffusers or a single file.

    path: a folder with SD3Transformer2DModel's config.json or a pipeline's, or a file
        in Stability's layout (`joint_blocks.0.x_block.attn.qkv.weight`), with or
        without its prefix "model.diffusion_model."; what else such a file holds
        (autoencoder, text encoders) is left alone.
    config: fields of the model that a single file does not tell: heads (width / 64 if
        not given), grid.

    The stored positions must be sin-cos of a square grid; their spacing and offset are
    read off the table, because configs do not tell them.

    Raises FileNotFoundError, and ValueError naming the field or tensor that is
    unknown, missing or cannot be honoured.
    Source: diffusers 0.42, transformer_sd3.py; Stability-AI/sd3.5 fbf8f48, mmditx.py.
    """
    path = Path(path)
    if path.is_file() and not path.name.endswith(".json"):
        source = without_prefix(open_tensors(path))
        model = _infer(source, config)
        return model, unpack(original_layout(model), model, source)
    if config:
        raise ValueError(
            f"{sorted(config)[0]} is given, but {path} is a folder, whose config.json "
            "says it"
        )
    folder = CONFIG.find(path)
    source = open_weights(folder)
    model = _model(folder, source)
    return model, unpack(diffusers_layout(model), model, source)


def save_mmdit(
    path: str | Path, model: MMDiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder, or Stability's layout where `path` ends in .safetensors.

    The inverse of `load_mmdit`; files get no prefix. Raises ValueError naming a field
    that the layout cannot express.
    """
    require(model, MMDiT, mlp_ratio=4.0, clock=MMDiT().clock, rotary=None)
    path = Path(path)
    if path.suffix == ".safetensors":
        write_tensors(path, pack(original_layout(model), model, params), dtype)
        return
    if model.grid[0] != model.grid[1]:
        raise ValueError(
            f"model.grid is {model.grid}, but diffusers names one sample_size: save it "
            "at a square grid (any grid can be chosen after loading)"
        )
    config = dict(
        _class_name=CONFIG.names[0],
        sample_size=model.grid[0],
        patch_size=model.patch,
        in_channels=model.channels,
        num_layers=model.depth,
        attention_head_dim=model.dim // model.heads,
        num_attention_heads=model.heads,
        joint_attention_dim=model.conditioning.features,
        caption_projection_dim=model.dim,
        pooled_projection_dim=model.conditioning.pooled,
        out_channels=model.channels,
        pos_embed_max_size=model.max_size,
        dual_attention_layers=list(range(model.dual_layers)),
        qk_norm="rms_norm" if model.qk_norm else None,
    )
    write_folder(path, config, pack(diffusers_layout(model), model, params), dtype)


def _model(folder: Path, source: Source) -> MMDiT:
    fields, where = CONFIG.read(folder), folder / "config.json"
    dim = fields["num_attention_heads"] * fields["attention_head_dim"]
    wanted = dict(caption_projection_dim=dim, out_channels=fields["in_channels"])
    for name, value in wanted.items():
        if fields[name] not in (value, None):
            raise ValueError(
                f"{where} has {name} {fields[name]}, but it must be {value}"
            )
    dual = list(fields["dual_attention_layers"])
    if dual != list(range(len(dual))):
        raise ValueError(
            f"{where} has dual_attention_layers {dual}, but only the first layers may "
            "have a second attention: 0, 1, 2, ..."
        )
    if fields["qk_norm"] not in (None, "rms_norm"):
        raise ValueError(
            f"{where} has qk_norm {fields['qk_norm']!r}, but it must be null or "
            "'rms_norm'"
        )
    spacing, offset = affine(source, "pos_embed.pos_embed")
    return MMDiT(
        grid=(fields["sample_size"],) * 2,
        channels=fields["in_channels"],
        patch=fields["patch_size"],
        dim=dim,
        depth=fields["num_layers"],
        heads=fields["num_attention_heads"],
        qk_norm=fields["qk_norm"] is not None,
        dual_layers=len(dual),
        max_size=fields["pos_embed_max_size"],
        spacing=spacing,
        offset=offset,
        conditioning=Text(
            fields["joint_attention_dim"], fields["pooled_projection_dim"]
        ),
    )


def _infer(source: Source, config: dict[str, Any]) -> MMDiT:
    if "joint_blocks.0.x_block.attn.qkv.weight" not in source.shapes:
        raise ValueError(
            f"{source.name} lacks 'joint_blocks.0.x_block.attn.qkv.weight', so it is "
            "not in the published layout of SD3"
        )
    dim, channels, patch, _ = source.shape("x_embedder.proj.weight", 4)
    rows = isqrt(source.shape("pos_embed", 3)[1])
    spacing, offset = affine(source, "pos_embed")
    side = min(128, rows * patch)
    fields: dict[str, Any] = dict(
        grid=(side, side),
        channels=channels,
        patch=patch,
        dim=dim,
        depth=max(layers_of(source, r"joint_blocks\.(\d+)\.")) + 1,
        heads=max(1, dim // 64),
        qk_norm="joint_blocks.0.x_block.attn.ln_q.weight" in source.shapes,
        dual_layers=len(layers_of(source, r"joint_blocks\.(\d+)\.x_block\.attn2\.")),
        max_size=rows,
        spacing=spacing,
        offset=offset,
        conditioning=Text(
            source.shape("context_embedder.weight", 2)[1],
            source.shape("y_embedder.mlp.0.weight", 2)[1],
        ),
    )
    return MMDiT(**fields | config)


def affine(source: Source, key: str) -> tuple[float, float]:
    """Spacing and offset of stored sin-cos positions: row i is at `i / spacing -
    offset`.

    The first frequency, 1, gives the spacing, and all others up to the slowest, which
    no table goes round, the place of the first row. Both are rounded to a fraction with
    a small denominator where one is near.
    """
    values = np.asarray(source.read(key), np.float64)[0]
    side, quarter = isqrt(len(values)), values.shape[-1] // 4
    row = values.reshape(side, side, -1)[0, :, : 2 * quarter]  # the columns' half
    angles = np.arctan2(row[:, :quarter], row[:, quarter:])
    omega = 10000.0 ** -(np.arange(quarter) / quarter)
    index = np.arange(side)
    place = angles[0, -1] / omega[-1]
    for rate, angle in zip(omega[::-1], angles[0, ::-1], strict=True):
        turns = np.round((place * rate - angle) / (2 * np.pi))
        place = (angle + 2 * np.pi * turns) / rate
    step = np.polyfit(index, np.unwrap(angles[:, 0]), 1)[0] if side > 1 else 1.0
    return _near(1 / step), _near(-place) + 0.0  # no negative zero


def _near(value: float) -> float:
    for most, room in (
        (8, 2e-3),
        (64, 1e-4),
        (1024, 1e-6),
    ):  # stored in half precision?
        simple = Fraction(value).limit_denominator(most)
        if abs(float(simple) - value) < room:
            return float(simple)
    return float(value)
