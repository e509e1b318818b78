# SPDX-License-Identifier: Apache-2.0
"""SD3 and SD3.5 transformers: diffusers' folders and Stability's own files."""

import re
from fractions import Fraction
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from jdit.conditioning import Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, norm, numbered, pack, same, unpack
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

_PREFIX = "model.diffusion_model."


def swap(values: np.ndarray, model: Any) -> np.ndarray:
    """Shift and scale in the other order."""
    return np.roll(values, values.shape[-1] // 2, -1)


def six(ours: str, stream: str) -> dict[str, int]:
    """The fused matrix of a stream: shift, scale, gate of attention, then of the MLP."""
    return {
        f"{ours}/{branch}/{stream}/{name}": share
        for branch in ("attention", "mlp")
        for name, share in (("modulation", 2), ("gate", 1))
    }


def table(model: MMDiT) -> np.ndarray:
    """The positions of `max_size` rows and columns, as they are stored: `1 n d`."""
    whole = Patches((model.max_size,) * 2, 1).coordinates()
    points = np.asarray(whole, np.float32) / np.float32(model.spacing)
    return np.asarray(sincos(points - np.float32(model.offset), model.dim))[None]


def _qk_norm(model: MMDiT, theirs: tuple[str, str], ours: str) -> tuple[Rule, ...]:
    if not model.qk_norm:
        return ()
    return (
        *norm(theirs[0], f"{ours}/q_norm", bias=False),
        *norm(theirs[1], f"{ours}/k_norm", bias=False),
    )


def _diffusers_block(model: MMDiT, stage: str) -> tuple[Rule, ...]:
    block, attention = "transformer_blocks.{}", f"{stage}/attention"
    attn = f"{block}.attn"
    image = six(stage, "image")
    added = tuple(f"{attn}.add_{x}_proj" for x in "qkv")
    text_norms = f"{attn}.norm_added_q", f"{attn}.norm_added_k"
    rules = [
        *linear(tuple(f"{attn}.to_{x}" for x in "qkv"), f"{attention}/image/qkv"),
        *linear(f"{attn}.to_out.0", f"{attention}/image/out"),
        *linear(added, f"{attention}/text/qkv"),
        *_qk_norm(model, (f"{attn}.norm_q", f"{attn}.norm_k"), f"{attention}/image"),
        *_qk_norm(model, text_norms, f"{attention}/text"),
        *linear(f"{block}.ff.net.0.proj", f"{stage}/mlp/image/in"),
        *linear(f"{block}.ff.net.2", f"{stage}/mlp/image/out"),
    ]
    if stage == "dual":
        attn = f"{block}.attn2"
        dual = f"{attention}/dual"
        image |= {f"{dual}/modulation": 2, f"{dual}/gate": 1}
        norms = f"{attn}.norm_q", f"{attn}.norm_k"
        rules += linear(tuple(f"{attn}.to_{x}" for x in "qkv"), f"{dual}/qkv")
        rules += linear(f"{attn}.to_out.0", f"{dual}/out")
        rules += _qk_norm(model, norms, dual)
    rules += linear(f"{block}.norm1.linear", image)
    text = f"{block}.norm1_context.linear"
    if stage == "last":
        rules += linear(text, f"{attention}/text/modulation", twist=swap)
    else:
        rules += linear(text, six(stage, "text"))
        rules += linear(f"{block}.attn.to_add_out", f"{attention}/text/out")
        rules += linear(f"{block}.ff_context.net.0.proj", f"{stage}/mlp/text/in")
        rules += linear(f"{block}.ff_context.net.2", f"{stage}/mlp/text/out")
    return tuple(rules)


def _original_block(model: MMDiT, stage: str) -> tuple[Rule, ...]:
    attention = f"{stage}/attention"
    rules: list[Rule] = []
    image = six(stage, "image")
    parts = [("x_block.attn", "image"), ("context_block.attn", "text")]
    if stage == "dual":
        parts += [("x_block.attn2", "dual")]
        image |= {f"{attention}/dual/modulation": 2, f"{attention}/dual/gate": 1}
    for theirs, ours in parts:
        key = f"joint_blocks.{{}}.{theirs}"
        rules += linear(f"{key}.qkv", f"{attention}/{ours}/qkv")
        rules += _qk_norm(model, (f"{key}.ln_q", f"{key}.ln_k"), f"{attention}/{ours}")
        if (stage, ours) != ("last", "text"):
            rules += linear(f"{key}.proj", f"{attention}/{ours}/out")
    for theirs, ours in (("x_block", "image"), ("context_block", "text")):
        key = f"joint_blocks.{{}}.{theirs}"
        fused = image if ours == "image" else six(stage, "text")
        if (stage, ours) == ("last", "text"):
            fused = {f"{attention}/text/modulation": 2}
        else:
            rules += linear(f"{key}.mlp.fc1", f"{stage}/mlp/{ours}/in")
            rules += linear(f"{key}.mlp.fc2", f"{stage}/mlp/{ours}/out")
        rules += linear(f"{key}.adaLN_modulation.1", fused)
    return tuple(rules)


def _stages(model: MMDiT, make: Any) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    first = 0
    for stage in model.stages:
        rules += numbered(make(model, stage.name), first)
        first += stage.depth
    return tuple(rules)


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
        source = _without_prefix(open_tensors(path))
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
    require(model, MMDiT, mlp_ratio=4.0, clock=MMDiT().clock)
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


def require(model: Any, kind: type, **fields: Any) -> None:
    """Raise ValueError unless a model is of a class and has these fields."""
    if not isinstance(model, kind):
        raise ValueError(
            f"model is a {type(model).__name__}, but this layout holds a "
            f"{kind.__name__}"
        )
    for name, value in fields.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, but this layout means "
                f"{value!r}"
            )


def _without_prefix(source: Source) -> Source:
    if not any(key.startswith(_PREFIX) for key in source.shapes):
        return source
    shapes = {
        key.removeprefix(_PREFIX): shape
        for key, shape in source.shapes.items()
        if key.startswith(_PREFIX)
    }
    return Source(source.name, shapes, lambda key: source.load(_PREFIX + key))


def _layers(source: Source, pattern: str) -> list[int]:
    found = (re.match(pattern, key) for key in source.shapes)
    return sorted({int(match[1]) for match in found if match})


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
        depth=max(_layers(source, r"joint_blocks\.(\d+)\.")) + 1,
        heads=max(1, dim // 64),
        qk_norm="joint_blocks.0.x_block.attn.ln_q.weight" in source.shapes,
        dual_layers=len(_layers(source, r"joint_blocks\.(\d+)\.x_block\.attn2\.")),
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
    simple = Fraction(value).limit_denominator(1000)
    return float(simple) if abs(float(simple) - value) < 1e-4 else value
