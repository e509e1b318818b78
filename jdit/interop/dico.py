# SPDX-License-Identifier: Apache-2.0
"""The published state dicts of DiCo, in both directions."""

import re
from pathlib import Path

from jdit.conditioning import Labels, LinearClock
from jdit.interop.dit import SIX
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, pack, same, unpack
from jdit.models.dico import DiCo
from jdit.typing import Params

STAGES = {
    "encoder_level_1": "encoder_1_blocks",
    "encoder_level_2": "encoder_2_blocks",
    "latent": "middle_blocks",
    "decoder_level_2": "decoder_2_blocks",
    "decoder_level_1": "decoder_1_blocks",
}
_POINT = "e d 1 1 -> d e"
_CONV = "e d y x -> y x d e"


def _blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    block = f"{theirs}.{{}}"
    six = {name.replace("blocks", ours): share for name, share in SIX.items()}
    return (
        *linear(f"{block}.conv1", f"{ours}/attention/in", _POINT),
        same(
            f"{block}.conv2.weight", f"{ours}/attention/mix/filter", "d 1 y x -> y x d"
        ),
        same(f"{block}.conv2.bias", f"{ours}/attention/mix/bias"),
        *linear(f"{block}.conv3", f"{ours}/attention/out", _POINT),
        *linear(f"{block}.ca.1", f"{ours}/attention/channels", _POINT),
        *linear(f"{block}.conv4", f"{ours}/mlp/in", _POINT),
        *linear(f"{block}.conv5", f"{ours}/mlp/out", _POINT),
        *linear(f"{block}.adaLN_modulation.1", six),
    )


def _levels() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for level in (1, 2, 3):
        rules += linear(f"t_embedder_{level}.mlp.0", f"time_{level}/in")
        rules += linear(f"t_embedder_{level}.mlp.2", f"time_{level}/out")
        table = f"y_embedder.embedding_table_{level - 1}.weight"
        rules.append(same(table, f"label_{level}/table"))
    return tuple(rules)


LAYOUT = Layout(
    "the published DiCo layout",
    (
        *linear("x_embedder.proj", "pixel", _CONV),
        *_levels(),
        *(rule for pair in STAGES.items() for rule in _blocks(*pair)),
        *linear("down1_2.body.0", "down_1", _CONV, bias=False),
        *linear("down2_3.body.0", "down_2", _CONV, bias=False),
        *linear("up3_2.body.0", "up_2", _CONV, bias=False),
        *linear("reduce_chan_level2", "join_2", _POINT),
        *linear("up2_1.body.0", "up_1", _CONV, bias=False),
        *linear("reduce_chan_level1", "join_1", _POINT),
        *linear("final_layer.adaLN_modulation.1", "final/modulation"),
        *linear("final_layer.out_proj", "final/conv", _CONV),
    ),
)


def load_dico(
    path: str | Path, *, grid: tuple[int, int] = (32, 32), classes: int | None = None
) -> tuple[DiCo, Params]:
    """A model and its parameters from weights in DiCo's published layout.

    path: a `DiCo-XL-3750K-256x256.pt`, a training checkpoint (its "ema" weights are
        taken; needs torch), or the same keys in a .safetensors file.
    grid: of the data; the weights do not tell. classes: see `load_dit`.

    The network reads the index of 1000 steps (`LinearClock(1000, -1)`) and predicts
    noise, with the learned variance in the second half of its channels.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown, or of the wrong shape.
    Source: shallowdream204/DiCo b596b05, dico_models.py.
    """
    source = open_tensors(path)
    model = _infer(source, grid, classes)
    return model, unpack(LAYOUT, model, source)


def save_dico(
    path: str | Path, model: DiCo, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in DiCo's published layout: the inverse of `load_dico`.

    path ends in .safetensors, or in .pt, which needs torch. Raises ValueError for a
    model without labels.
    """
    if not isinstance(model, DiCo) or model.conditioning is None:
        raise ValueError(f"model is {model}, but {LAYOUT.name} holds a DiCo of labels")
    write_tensors(path, pack(LAYOUT, model, params), dtype)


def _infer(source: Source, grid: tuple[int, int], classes: int | None) -> DiCo:
    """The model whose weights these are, by their shapes."""
    dim, channels, _, _ = source.shape("x_embedder.proj.weight", 4)
    rows, _ = source.shape("y_embedder.embedding_table_0.weight", 2)
    hidden, _, _, _ = source.shape("latent.0.conv4.weight", 4)
    out, _, _, _ = source.shape("final_layer.out_proj.weight", 4)
    depths = []
    for stage in STAGES:
        pattern = re.compile(rf"{stage}\.(\d+)\.")
        found = {int(m[1]) for key in source.shapes if (m := pattern.match(key))}
        depths.append(max(found, default=-1) + 1)
    if classes not in (None, rows, rows - 1):
        raise ValueError(
            f"classes is {classes}, but {source.name} has {rows} rows of labels: it "
            f"must be {rows - 1} (with a null class) or {rows} (without)"
        )
    return DiCo(
        grid=tuple(grid),
        channels=channels,
        out_channels=out,
        dim=dim,
        depths=tuple(depths),
        mlp_ratio=hidden / (4 * dim),
        conditioning=Labels(rows, 0.0) if classes == rows else Labels(rows - 1),
        clock=LinearClock(1000.0, -1.0),
    )
