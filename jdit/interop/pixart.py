# SPDX-License-Identifier: Apache-2.0
"""PixArt's weights: diffusers' folders and the published files, in both directions."""

import re
from dataclasses import replace
from math import atan2
from pathlib import Path
from typing import Any

import numpy as np

from jdit.blocks.pixart import Compression
from jdit.conditioning import LinearClock, Sinusoids, Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import (
    Layout,
    Rule,
    linear,
    norm,
    numbered,
    pack,
    same,
    unpack,
)
from jdit.models.pixart import PixArt, Sizes
from jdit.tokens import sincos
from jdit.typing import Params

PIXART_CLOCK = LinearClock(1000.0, -1.0)
NULL = "y_embedder.y_embedding"
_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".index.json")
_TABLE = (("modulation", 2), ("gate", 1))


def six_rule(
    theirs: str, stage: str, attention: str = "attention", mlp: str = "mlp"
) -> Rule:
    """The rule of a `scale_shift_table`, `6 d`: shift, scale, gate of both."""
    ours = tuple(
        (f"{stage}/{branch}/{part}/table", share)
        for branch in (attention, mlp)
        for part, share in _TABLE
    )
    return Rule((theirs,), ours, "six d -> (six d)", sizes=(("six", 6),))


def final_rule(theirs: str) -> Rule:
    """The rule of the read-out's table, `2 d`: shift, scale."""
    ours = (("final/modulation/table", 1),)
    return Rule((theirs,), ours, "two d -> (two d)", sizes=(("two", 2),))


def diffusers_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """diffusers' BasicTransformerBlock as PixArt and Latte use it."""
    return (
        six_rule(f"{theirs}.scale_shift_table", ours),
        *linear(
            tuple(f"{theirs}.attn1.to_{x}" for x in "qkv"), f"{ours}/attention/qkv"
        ),
        *linear(f"{theirs}.attn1.to_out.0", f"{ours}/attention/out"),
        *linear(f"{theirs}.attn2.to_q", f"{ours}/cross/q"),
        *linear(tuple(f"{theirs}.attn2.to_{x}" for x in "kv"), f"{ours}/cross/kv"),
        *linear(f"{theirs}.attn2.to_out.0", f"{ours}/cross/out"),
        *linear(f"{theirs}.ff.net.0.proj", f"{ours}/mlp/in"),
        *linear(f"{theirs}.ff.net.2", f"{ours}/mlp/out"),
    )


def diffusers_ends() -> tuple[Rule, ...]:
    """What diffusers' PixArt and Latte have before and after their blocks."""
    time = "adaln_single.emb.timestep_embedder"
    return (
        *linear("pos_embed.proj", "patch", "d c p q -> (p q c) d"),
        *linear(f"{time}.linear_1", "time/in"),
        *linear(f"{time}.linear_2", "time/out"),
        *linear("adaln_single.linear", "modulation"),
        *linear("caption_projection.linear_1", "text/in"),
        *linear("caption_projection.linear_2", "text/out"),
        final_rule("scale_shift_table"),
        *linear("proj_out", "final/linear"),
    )


def _positions(model: PixArt) -> np.ndarray:
    return np.asarray(sincos(model.coordinates, model.dim))[None]


def _diffusers(model: PixArt) -> Layout:
    rules = [*diffusers_ends(), *diffusers_block("transformer_blocks.{}", "blocks")]
    if model.sizes is not None:
        for ours, theirs in (("resolution",) * 2, ("aspect_ratio",) * 2):
            for part, number in (("in", 1), ("out", 2)):
                key = f"adaln_single.emb.{theirs}_embedder.linear_{number}"
                rules += linear(key, f"{ours}/{part}")
    return Layout(
        "diffusers' PixArtTransformer2DModel",
        tuple(rules),
        tables={"pos_embed.pos_embed": _positions},  # stored by old versions only
    )


def _published(model: PixArt, written: bool = True) -> Layout:
    rules = [
        *linear("x_embedder.proj", "patch", "d c p q -> (p q c) d"),
        *linear("t_embedder.mlp.0", "time/in"),
        *linear("t_embedder.mlp.2", "time/out"),
        *linear("t_block.1", "modulation"),
        *linear("y_embedder.y_proj.fc1", "text/in"),
        *linear("y_embedder.y_proj.fc2", "text/out"),
        final_rule("final_layer.scale_shift_table"),
        *linear("final_layer.linear", "final/linear"),
    ]
    if model.sizes is not None:
        for ours, theirs in (("resolution", "csize"), ("aspect_ratio", "ar")):
            rules += linear(f"{theirs}_embedder.mlp.0", f"{ours}/in")
            rules += linear(f"{theirs}_embedder.mlp.2", f"{ours}/out")
    first = 0
    for stage in model.stages:
        rules += numbered(_published_block(stage.name, model), first)
        first += stage.depth
    written_keys = ("pos_embed",) if written else ()
    tables = {"pos_embed": _positions}
    return Layout("the published PixArt layout", tuple(rules), tables, written_keys)


def _published_block(ours: str, model: PixArt) -> list[Rule]:
    theirs = "blocks.{}"
    rules = [
        six_rule(f"{theirs}.scale_shift_table", ours),
        *linear(f"{theirs}.attn.qkv", f"{ours}/attention/qkv"),
        *linear(f"{theirs}.attn.proj", f"{ours}/attention/out"),
        *linear(f"{theirs}.cross_attn.q_linear", f"{ours}/cross/q"),
        *linear(f"{theirs}.cross_attn.kv_linear", f"{ours}/cross/kv"),
        *linear(f"{theirs}.cross_attn.proj", f"{ours}/cross/out"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/in"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
    ]
    if ours == "compressed_blocks" and model.compression is not None:
        merge, ratio = f"{ours}/attention/merge", model.compression.ratio
        filter_ = Rule(
            (f"{theirs}.attn.sr.weight",),
            ((f"{merge}/filter", 1),),
            "d 1 u v -> (u v) d",
            sizes=(("u", ratio), ("v", ratio)),
        )
        rules += [filter_, same(f"{theirs}.attn.sr.bias", f"{merge}/bias")]
        rules += norm(f"{theirs}.attn.norm", f"{merge}/norm")
    return rules


_CONFIG = Config(
    names=("PixArtTransformer2DModel", "Transformer2DModel"),
    fields=dict(
        num_attention_heads=(16, NATURAL),
        attention_head_dim=(72, NATURAL),
        in_channels=(4, NATURAL),
        out_channels=(8, "a positive whole number or null"),
        num_layers=(28, NATURAL),
        sample_size=(128, NATURAL),
        patch_size=(2, NATURAL),
        interpolation_scale=(None, "a number or null"),
        use_additional_conditions=(None, "true, false or null"),
        cross_attention_dim=(1152, "a positive whole number or null"),
        caption_channels=(None, "a positive whole number or null"),
    ),
    fixed=dict(
        activation_fn="gelu-approximate",
        attention_bias=True,
        attention_type="default",
        double_self_attention=False,
        dropout=0.0,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        norm_type="ada_norm_single",
        num_embeds_ada_norm=1000,
        num_vector_embeds=None,
        only_cross_attention=False,
        upcast_attention=False,
        use_linear_projection=False,
    ),
    ignored=("norm_num_groups",),
)


def load_pixart(
    path: str | Path, *, heads: int | None = None, **changes: Any
) -> tuple[PixArt, Params]:
    """A model and its parameters from a folder of diffusers or a published file.

    path: the folder of a PixArtTransformer2DModel or of a pipeline with one, or a
        file in the layout of the authors' code (`PixArt-XL-2-1024-MS.pth`, a training
        checkpoint, or the same keys as safetensors).
    heads: of a file, in which they cannot be seen; None means width / 72, as published.
    changes: fields of a file's model that override what was read off it. Grid and
        interpolation are read off the stored positions; a file without these needs
        `grid`, `base` and `interpolation`.

    A file's stored encoding of the empty caption is no parameter: `null_caption`.
    Raises FileNotFoundError, and ValueError naming the field or the tensor that is
    unknown, missing or cannot be honoured.
    Source: diffusers 0.42, pixart_transformer_2d.py; PixArt-alpha/PixArt-sigma 1ce521a.
    """
    path = Path(path)
    if path.is_dir() or not path.name.endswith(_FILES):
        folder = _CONFIG.find(path)
        model = _from_config(_CONFIG.read(folder), folder)
        return model, unpack(_diffusers(model), model, open_weights(folder))
    source = open_tensors(path).without([NULL])
    stored = "pos_embed" in source.shapes
    model = _infer(source, heads, changes)
    return model, unpack(_published(model, stored), model, source)


def null_caption(path: str | Path) -> np.ndarray:
    """The encoding of the empty caption that a published file stores, `m e`.

    Guidance is away from it: `{"negative": {"text": ...}}`, once for each image.
    """
    source = open_tensors(path)
    source.shape(NULL, 2)
    return np.asarray(source.read(NULL), np.float32)


def save_pixart(
    path: str | Path,
    model: PixArt,
    params: Params,
    *,
    null: np.ndarray | None = None,
    dtype: DType = "float32",
) -> None:
    """The inverse of `load_pixart`: a file if `path` has such an ending, else a folder.

    null: the empty caption's encoding, to be stored in a published file.

    Raises ValueError naming the field for a model that the layout cannot express:
    diffusers has no token compression.
    """
    path = Path(path)
    for name, value in dict(clock=PIXART_CLOCK, basis=Sinusoids()).items():
        if getattr(model, name) != value:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, but PixArt's layouts mean "
                f"{value!r}"
            )
    if path.name.endswith(_FILES):
        tensors = pack(_published(model), model, params)
        if null is not None:
            tensors[NULL] = np.asarray(null, np.float32)
        return write_tensors(path, tensors, dtype)
    if model.compression is not None:
        raise ValueError(
            "model.compression is set, but diffusers' PixArtTransformer2DModel has no "
            "token compression: save to a .safetensors or .pth file"
        )
    if model.grid[0] != model.grid[1] or model.tokens.shape[0] != model.base:
        raise ValueError(
            f"model.grid is {model.grid}, but diffusers' config means the square grid "
            f"of {model.base} tokens a side: save with that grid, any other runs later"
        )
    if model.mlp_ratio != 4.0:
        raise ValueError(f"model.mlp_ratio is {model.mlp_ratio}, but diffusers means 4")
    config = dict(
        _class_name=_CONFIG.names[0],
        num_attention_heads=model.heads,
        attention_head_dim=model.dim // model.heads,
        in_channels=model.channels,
        out_channels=model.out_channels or model.channels,
        num_layers=model.depth,
        sample_size=model.grid[0],
        patch_size=model.patch,
        interpolation_scale=model.interpolation,
        use_additional_conditions=model.sizes is not None,
        cross_attention_dim=model.dim,
        caption_channels=model.conditioning.features,
        norm_num_groups=32,
        **{k: v for k, v in _CONFIG.fixed.items() if k not in _LEGACY},
    )
    write_folder(path, config, pack(_diffusers(model), model, params), dtype)


_LEGACY = (
    "double_self_attention",
    "num_vector_embeds",
    "only_cross_attention",
    "use_linear_projection",
)


def _from_config(config: dict[str, Any], folder: Path) -> PixArt:
    heads, size = config["num_attention_heads"], config["sample_size"]
    dim = heads * config["attention_head_dim"]
    if config["cross_attention_dim"] != dim or config["caption_channels"] is None:
        raise ValueError(
            f"{folder}/config.json has cross_attention_dim "
            f"{config['cross_attention_dim']} and caption_channels "
            f"{config['caption_channels']}, but supported are captions that are "
            f"projected to the model's width, {dim}"
        )
    scale, told = config["interpolation_scale"], config["use_additional_conditions"]
    told = size == 128 if told is None else told
    return PixArt(
        grid=(size, size),
        channels=config["in_channels"],
        out_channels=config["out_channels"] or config["in_channels"],
        patch=config["patch_size"],
        dim=dim,
        depth=config["num_layers"],
        heads=heads,
        base=size // config["patch_size"],
        interpolation=float(max(size // 64, 1) if scale is None else scale),
        sizes=Sizes() if told else None,
        conditioning=Text(config["caption_channels"]),
    )


def _infer(source: Source, heads: int | None, changes: dict[str, Any]) -> PixArt:
    """The model whose weights these are, by their shapes and stored positions."""
    dim, channels, patch, _ = source.shape("x_embedder.proj.weight", 4)
    _, features = source.shape("y_embedder.y_proj.fc1.weight", 2)
    hidden, _ = source.shape("blocks.0.mlp.fc1.weight", 2)
    out, _ = source.shape("final_layer.linear.weight", 2)
    heads = heads or dim // 72
    if heads < 1:
        raise ValueError(
            f"{source.name} has width {dim}, which no published size has, and heads "
            "cannot be seen in the weights: pass heads"
        )
    layers = [re.match(r"blocks\.(\d+)\.(attn\.sr\.weight)?", k) for k in source.shapes]
    numbers = {int(m[1]) for m in layers if m}
    deep = sorted(int(m[1]) for m in layers if m and m[2])
    depth, compression = max(numbers) + 1, None
    if deep:
        if deep != list(range(depth - len(deep), depth)):
            raise ValueError(
                f"{source.name} compresses tokens in the layers {deep}, but supported "
                "are the last layers, without a gap"
            )
        *_, ratio, _ = source.shape(f"blocks.{deep[0]}.attn.sr.weight", 4)
        compression = Compression(ratio, len(deep))
    found: dict[str, Any] = {}
    if "pos_embed" in source.shapes:
        _, tokens, _ = source.shape("pos_embed", 3)
        side = round(tokens**0.5)
        found = dict(grid=(side * patch,) * 2, base=side)
        if side > 1:  # the angle of the second column at the first frequency
            table = np.asarray(source.read("pos_embed"), np.float64)[0, 1]
            angle = atan2(table[0], table[dim // 4])
            found["interpolation"] = round(1 / angle, 3)
    elif missing := [n for n in ("grid", "base", "interpolation") if n not in changes]:
        raise ValueError(
            f"{source.name} stores no positions ('pos_embed'): pass "
            + ", ".join(missing)
        )
    model = PixArt(
        channels=channels,
        out_channels=out // patch**2,
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_ratio=hidden / dim,
        sizes=Sizes() if "csize_embedder.mlp.0.weight" in source.shapes else None,
        conditioning=Text(features),
        **found,
    )
    return replace(model, compression=compression, **changes)
