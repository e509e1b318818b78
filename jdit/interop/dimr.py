# SPDX-License-Identifier: Apache-2.0
"""The published state dicts of DiMR, in both directions."""

import re
from math import isqrt
from pathlib import Path

from jdit.conditioning import Labels
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, numbered, pack, same, unpack
from jdit.models.dimr import DiMR, Level
from jdit.typing import Params

NAME = "the published DiMR layout"
_BETWEEN = {
    "param0": "noisy",
    "param1": "clean",
    "nodecay_weight": "rate",
    "nodecay_bias": "shift",
}


def _between(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple(same(f"{theirs}.{a}", f"{ours}/{b}") for a, b in _BETWEEN.items())


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *_between(f"{theirs}.weight", f"{ours}/scale"),
        *_between(f"{theirs}.bias", f"{ours}/bias"),
    )


def _blocks(theirs: str, ours: str, attends: bool) -> tuple[Rule, ...]:
    mlp = (
        *_between(f"{theirs}.block2.norm.scale", f"{ours}/mlp/norm/scale"),
        *linear((f"{theirs}.block2.w0", f"{theirs}.block2.w1"), f"{ours}/mlp/in"),
        *linear(f"{theirs}.block2.w2", f"{ours}/mlp/out"),
    )
    first = f"{theirs}.block1"
    if not attends:
        place = f"{ours}/convolution"
        taps = same(f"{first}.1.weight", f"{place}/filter", "d 1 y x -> y x d")
        return (taps, same(f"{first}.1.bias", f"{place}/bias"), *mlp)
    place = f"{ours}/attention"
    return (
        *_between(f"{first}.norm.scale", f"{place}/norm/scale"),
        *linear(f"{first}.query_key_value", f"{place}/qkv", bias=False),
        *linear(f"{first}.dense", f"{place}/out"),
        *mlp,
    )


def layout(model: DiMR) -> Layout:
    """The published layout of a model of these levels."""
    rules: list[Rule] = []
    for i, level in enumerate(model.levels):
        own, half, attends = f"stages.{i}", level.depth // 2, level.heads is not None
        sides = (("y", level.patch), ("x", level.patch))
        h, _ = model.positions_of(i)
        rules += [
            Rule(
                (f"{own}.input_layer.1.weight",),
                ((f"patch_{i}/kernel", 1),),
                "d c y x -> (y x c) d",
                sizes=sides,
            ),
            same(f"{own}.input_layer.1.bias", f"patch_{i}/bias"),
            Rule(
                (f"{own}.input_layer.3.position_embeddings.weight",),
                ((f"positions_{i}", 1),),
                "(h w) d -> h w d",
                sizes=(("h", h),),
            ),
        ]
        firsts = {"in": 0, "mid": half, "out": half + 1}
        for part, first in firsts.items():
            block = _blocks(f"{own}.blocks.{{}}", f"{part}_{i}_blocks", attends)
            rules += numbered(block, first)
        rules += linear(f"{own}.skip_denses.{{}}", f"out_{i}_blocks/enter")
        rules += _norm(f"{own}.output_layer.0", f"final_{i}/norm")
        rules += linear(
            f"{own}.output_layer.2", f"final_{i}/conv", "e d y x -> y x d e"
        )
        if i:
            rules += _norm(f"{own}.upsample.0", f"up_{i}/before")
            rules += linear(f"{own}.upsample.1.kernel", f"up_{i}/linear")
            rules += _norm(f"{own}.upsample.2", f"up_{i}/after")
    if model.conditioning is not None:
        rules.append(same("stages.0.class_embeds.weight", "label/table"))
    return Layout(NAME, tuple(rules))


def load_dimr(
    path: str | Path, *, heads: int = 16, grid: tuple[int, int] | None = None
) -> tuple[DiMR, Params]:
    """A model and its parameters from weights in DiMR's published layout.

    path: a `DiMR-XL_2R_800epochs.pth` (needs torch), or the same keys in a .safetensors
        file.
    heads: of the first level, which the weights do not tell (both published: 16).
    grid: of the data; None means the square whose positions were learned.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown, or of the wrong shape.
    Source: qihao067/DiMR fa141ae, libs/core/blocks.py.
    """
    source = open_tensors(path)
    model = _infer(source, heads, grid)
    return model, unpack(layout(model), model, source)


def save_dimr(
    path: str | Path, model: DiMR, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in DiMR's published layout: the inverse of `load_dimr`.

    path ends in .safetensors, or in .pth, which needs torch. Raises ValueError for
    positions learned for a grid that is not square.
    """
    size = (model.largest or model.grid) if isinstance(model, DiMR) else (0, 1)
    if size[0] != size[1]:
        raise ValueError(f"model is {model}, but {NAME} holds a DiMR of a square grid")
    write_tensors(path, pack(layout(model), model, params), dtype)


def _infer(source: Source, heads: int, grid: tuple[int, int] | None) -> DiMR:
    """The model whose weights these are, by their shapes."""
    count = len({key.split(".")[1] for key in source.shapes if key[:7] == "stages."})
    levels: list[Level] = []
    side = channels = 0
    for i in range(count):
        own = f"stages.{i}"
        dim, channels, patch, _ = source.shape(f"{own}.input_layer.1.weight", 4)
        places, _ = source.shape(f"{own}.input_layer.3.position_embeddings.weight", 2)
        hidden, _ = source.shape(f"{own}.blocks.0.block2.w0.weight", 2)
        pattern = re.compile(rf"stages\.{i}\.blocks\.(\d+)\.")
        found = {int(m[1]) for key in source.shapes if (m := pattern.match(key))}
        kernel = f"{own}.blocks.0.block1.1.weight"
        size = source.shape(kernel, 4)[-1] if kernel in source.shapes else None
        side = isqrt(places) * patch
        levels.append(
            Level(
                dim,
                hidden,
                max(found) + 1,
                heads if size is None else None,
                patch,
                kernel=size or 7,
            )
        )
    if not levels:
        raise ValueError(f"{source.name} lacks 'stages.0.input_layer.1.weight'")
    rows = source.shapes.get("stages.0.class_embeds.weight")
    return DiMR(
        grid=tuple(grid or (side, side)),
        channels=channels,
        levels=tuple(levels),
        largest=(side, side),
        conditioning=None if rows is None else Labels(rows[0] - 1),
    )
