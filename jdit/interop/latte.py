# SPDX-License-Identifier: Apache-2.0
"""Latte's weights: diffusers' folders and the published files, in both directions."""

import re
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from jdit.conditioning import Labels, LinearClock, Sinusoids, Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import (
    Layout,
    Rule,
    linear,
    numbered,
    pack,
    same,
    unpack,
)
from jdit.interop.pixart import diffusers_block, diffusers_ends
from jdit.models.latte import Latte
from jdit.typing import Params

_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".index.json")
_CLOCK = LinearClock(1000.0, -1.0)


def _positions(model: Latte) -> np.ndarray:
    return np.asarray(model.positions)[None]


def _places(model: Latte) -> np.ndarray:
    return np.asarray(model.places)[None]


def _temporal(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules of a block's attention and MLP, for the temporal block's."""
    found = []
    for rule in rules:
        ours = tuple(
            (n.replace("blocks/", "blocks/temporal_"), s) for n, s in rule.ours
        )
        if not any("/cross/" in name for name, _ in rule.ours):
            theirs = tuple(
                key.replace("transformer_blocks", "temporal_transformer_blocks")
                for key in rule.theirs
            )
            found.append(Rule(theirs, ours, rule.pattern, rule.twist, sizes=rule.sizes))
    return tuple(found)


_BLOCK = diffusers_block("transformer_blocks.{}", "blocks")

DIFFUSERS = Layout(
    "diffusers' LatteTransformer3DModel",
    (*diffusers_ends(), *_BLOCK, *_temporal(_BLOCK)),
    tables={"pos_embed.pos_embed": _positions, "temp_pos_embed": _places},
)

_SIX = {f"blocks/{b}/{p}": n for b in ("attention", "mlp") for p, n in
        (("modulation", 2), ("gate", 1))}  # fmt: skip
_PUBLISHED_BLOCK = (
    *linear("blocks.{}.attn.qkv", "blocks/attention/qkv"),
    *linear("blocks.{}.attn.proj", "blocks/attention/out"),
    *linear("blocks.{}.mlp.fc1", "blocks/mlp/in"),
    *linear("blocks.{}.mlp.fc2", "blocks/mlp/out"),
    *linear("blocks.{}.adaLN_modulation.1", _SIX),
)


def _published(model: Latte) -> Layout:
    rules = [
        *linear("x_embedder.proj", "patch", "d c p q -> (p q c) d"),
        *linear("t_embedder.mlp.0", "time/in"),
        *linear("t_embedder.mlp.2", "time/out"),
        *numbered(_PUBLISHED_BLOCK, 0, 2),
        *numbered(_temporal(_PUBLISHED_BLOCK), 1, 2),
        *linear("final_layer.adaLN_modulation.1", "final/modulation"),
        *linear("final_layer.linear", "final/linear"),
    ]
    if model.conditioning is not None:
        rules.append(same("y_embedder.embedding_table.weight", "label/table"))
    return Layout(
        "the published Latte layout",
        tuple(rules),
        tables={"pos_embed": _positions, "temp_embed": _places},
        written=("pos_embed", "temp_embed"),
    )


_CONFIG = Config(
    names=("LatteTransformer3DModel",),
    fields=dict(
        num_attention_heads=(16, NATURAL),
        attention_head_dim=(88, NATURAL),
        in_channels=(None, NATURAL),
        out_channels=(None, "a positive whole number or null"),
        num_layers=(1, NATURAL),
        cross_attention_dim=(None, NATURAL),
        sample_size=(64, NATURAL),
        patch_size=(None, NATURAL),
        caption_channels=(None, NATURAL),
        video_length=(16, NATURAL),
    ),
    fixed=dict(
        activation_fn="gelu-approximate",
        attention_bias=True,
        dropout=0.0,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        norm_type="ada_norm_single",
        num_embeds_ada_norm=1000,
    ),
)


def load_latte(
    path: str | Path, *, heads: int | None = None, null: bool = True
) -> tuple[Latte, Params]:
    """A model and its parameters from a folder of diffusers or a published file.

    path: the folder of a LatteTransformer3DModel or of a pipeline with one
        (text-conditional), or a file in the layout of the authors' code (`ucf101.pt`,
        whose "ema" weights are taken; class-conditional or unconditional).
    heads: of a file, in which they cannot be seen; None means the count of the
        published size of this width.
    null: whether the last row of a file's table of classes is the null class.

    Raises FileNotFoundError, and ValueError naming the field or the tensor that is
    unknown, missing or cannot be honoured.
    Source: diffusers 0.42, latte_transformer_3d.py; Vchitect/Latte b27c24a.
    """
    path = Path(path)
    if path.is_dir() or not path.name.endswith(_FILES):
        folder = _CONFIG.find(path)
        model = _from_config(_CONFIG.read(folder), folder)
        return model, unpack(DIFFUSERS, model, open_weights(folder))
    source = open_tensors(path)
    model = _infer(source, heads, null)
    return model, unpack(_published(model), model, source)


def save_latte(
    path: str | Path, model: Latte, params: Params, *, dtype: DType = "float32"
) -> None:
    """The inverse of `load_latte`: a folder for text, a file for labels or nothing.

    Raises ValueError naming the field for a model that the layout cannot express.
    """
    path = Path(path)
    text, file = isinstance(model.conditioning, Text), path.name.endswith(_FILES)
    if text == file:
        raise ValueError(
            f"model.conditioning is {model.conditioning}, but {path} is a "
            + (
                "file, which holds Labels or None"
                if file
                else "folder, which is Text's"
            )
        )
    size = model.grid[1]
    scale = 1.0 if file else float(max(size // 64, 1))
    want = dict(clock=_CLOCK, basis=Sinusoids(), interpolation=scale)
    want |= dict(base=size // model.patch, mlp_ratio=4.0)
    for name, value in want.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, but Latte's layout means "
                f"{value!r} here"
            )
    if model.grid[1] != model.grid[2]:
        raise ValueError(f"model.grid is {model.grid}, but Latte's frames are square")
    if not isinstance(model.conditioning, Text):
        return write_tensors(path, pack(_published(model), model, params), dtype)
    config = dict(
        _class_name=_CONFIG.names[0],
        num_attention_heads=model.heads,
        attention_head_dim=model.dim // model.heads,
        in_channels=model.channels,
        out_channels=model.out_channels or model.channels,
        num_layers=model.depth,
        cross_attention_dim=model.dim,
        sample_size=size,
        patch_size=model.patch,
        caption_channels=model.conditioning.features,
        video_length=model.grid[0],
        **_CONFIG.fixed,
    )
    write_folder(path, config, pack(DIFFUSERS, model, params), dtype)


def _from_config(config: dict[str, Any], folder: Path) -> Latte:
    heads, size = config["num_attention_heads"], config["sample_size"]
    dim = heads * config["attention_head_dim"]
    if config["cross_attention_dim"] != dim:
        raise ValueError(
            f"{folder}/config.json has cross_attention_dim "
            f"{config['cross_attention_dim']}, but captions are projected to {dim}"
        )
    return Latte(
        grid=(config["video_length"], size, size),
        channels=config["in_channels"],
        out_channels=config["out_channels"] or config["in_channels"],
        patch=config["patch_size"],
        dim=dim,
        depth=config["num_layers"],
        heads=heads,
        base=size // config["patch_size"],
        interpolation=float(max(size // 64, 1)),
        conditioning=Text(config["caption_channels"]),
    )


def _infer(source: Source, heads: int | None, null: bool) -> Latte:
    """The model whose weights these are, by their shapes."""
    dim, channels, patch, _ = source.shape("x_embedder.proj.weight", 4)
    _, tokens, _ = source.shape("pos_embed", 3)
    _, frames, _ = source.shape("temp_embed", 3)
    out, _ = source.shape("final_layer.linear.weight", 2)
    hidden, _ = source.shape("blocks.0.mlp.fc1.weight", 2)
    numbers = [re.match(r"blocks\.(\d+)\.", key) for key in source.shapes]
    layers = max(int(m[1]) for m in numbers if m) + 1
    side = isqrt(tokens)
    if layers % 2 or side**2 != tokens:
        raise ValueError(
            f"{source.name} has {layers} blocks and frames of {tokens} tokens, but a "
            "Latte has pairs of blocks and square frames"
        )
    heads = heads or {384: 6, 768: 12, 1024: 16, 1152: 16}.get(dim)
    if heads is None:
        raise ValueError(
            f"{source.name} has width {dim}, which no published size has, and heads "
            "cannot be seen in the weights: pass heads"
        )
    conditioning, table = None, "y_embedder.embedding_table.weight"
    if table in source.shapes:
        rows, _ = source.shape(table, 2)
        conditioning = Labels(rows - 1) if null else Labels(rows, 0.0)
    return Latte(
        grid=(frames, side * patch, side * patch),
        channels=channels,
        out_channels=out // patch**2,
        patch=patch,
        dim=dim,
        depth=layers // 2,
        heads=heads,
        mlp_ratio=hidden / dim,
        base=side,
        conditioning=conditioning,
    )
