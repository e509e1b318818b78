# SPDX-License-Identifier: Apache-2.0
"""The published state dicts of DiT and SiT, in both directions."""

import re
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from jdit.conditioning import Labels, LinearClock, Sinusoids
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, linear, pack, same, unpack
from jdit.models.dit import SIZES, DiT
from jdit.processes import Target
from jdit.tokens import sincos
from jdit.typing import Params

SIX = {
    "blocks/attention/modulation": 2,
    "blocks/attention/gate": 1,
    "blocks/mlp/modulation": 2,
    "blocks/mlp/gate": 1,
}
"""The fused adaLN-Zero matrix: shift, scale, gate of attention, then of the MLP."""


def positions(model: DiT) -> np.ndarray:
    """The fixed table that is stored beside the weights, `1 n d`."""
    return np.asarray(sincos(model.tokens.coordinates(), model.dim))[None]


def negate(values: np.ndarray, model: Any) -> np.ndarray:
    """Turn the sign of the prediction's channels and leave the unused variance."""
    out = getattr(model, "out_channels", None) or model.channels  # some predict one
    predicted = np.arange(values.shape[-1]) % out < model.channels
    return np.where(predicted, -values, values)


def _published(name: str, negated: bool = False) -> Layout:
    twist = negate if negated else None
    return Layout(
        name,
        (
            *linear("x_embedder.proj", "patch", "d c p q -> (p q c) d"),
            *linear("t_embedder.mlp.0", "time/in"),
            *linear("t_embedder.mlp.2", "time/out"),
            same("y_embedder.embedding_table.weight", "label/table"),
            *linear("blocks.{}.attn.qkv", "blocks/attention/qkv"),
            *linear("blocks.{}.attn.proj", "blocks/attention/out"),
            *linear("blocks.{}.mlp.fc1", "blocks/mlp/in"),
            *linear("blocks.{}.mlp.fc2", "blocks/mlp/out"),
            *linear("blocks.{}.adaLN_modulation.1", SIX),
            *linear("final_layer.adaLN_modulation.1", "final/modulation"),
            *linear("final_layer.linear", "final/linear", twist=twist),
        ),
        tables={"pos_embed": positions},
        written=("pos_embed",),
    )


DIT = _published("the published DiT layout")
SIT = _published("the published SiT layout")
SIT_VELOCITY = _published("the published SiT layout", negated=True)

DIT_CLOCK = LinearClock(1000.0, -1.0)
SIT_CLOCK = LinearClock(-1.0, 1.0)

_LOOKS = {
    "pos_embed.proj.": "a diffusers DiTTransformer2DModel, whose folder (with its "
    "config.json) from_diffusers loads",
    "blocks/attention/": "jdit's own weights",
    "double_blocks.": "a Flux transformer",
    "joint_blocks.": "a Stable Diffusion 3 transformer",
    "down_blocks.": "a diffusers U-Net",
    "input_blocks.": "a U-Net",
}


def load_dit(
    path: str | Path, *, heads: int | None = None, classes: int | None = None
) -> tuple[DiT, Params]:
    """A model and its parameters from weights in DiT's published layout.

    path: a `DiT-XL-2-256x256.pt`, a training checkpoint of the published code (its
        "ema" weights are taken, else its "model"), or the same keys in a .safetensors
        file or sharded index, for which torch is not needed.
    heads: cannot be seen in the weights; None takes the published count of this width
        (384: 6, 768: 12, 1024: 16, 1152: 16).
    classes: None reads the table's last row as the null class, as published; the
        number of rows says that there is none (trained without label dropout).

    Grid, patch, width, depth, channels and classes are read off the shapes; the stored
    positions must be the published table of a square grid. The network reads the index
    of 1000 steps (`LinearClock(1000, -1)`) and predicts noise, with the learned
    variance in the second half of its channels where it has one. Parameters are
    float32 whatever the file's dtype, so half-precision files lose nothing.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown, or of the wrong shape.
    Source: facebookresearch/DiT, models.py.
    """
    source = open_tensors(path)
    model = _infer(source, heads, classes, DIT_CLOCK)
    return model, unpack(DIT, model, source)


def save_dit(
    path: str | Path, model: DiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in DiT's published layout: the inverse of `load_dit`.

    path ends in .safetensors, or in .pt, which needs torch. The positions are made
    anew. The layout stores no clock, heads or compute dtype.

    Raises ValueError naming the field for a model that the published code cannot
    express: another clock, positions other than sin-cos, a grid that is not square.
    """
    require(model, DIT.name, clock=DIT_CLOCK)
    write_tensors(path, pack(DIT, model, params), dtype)


def load_sit(
    path: str | Path,
    *,
    heads: int | None = None,
    classes: int | None = None,
    target: Target = "velocity",
) -> tuple[DiT, Params]:
    """A model and its parameters from weights in SiT's layout, which has DiT's keys.

    SiT's time runs from noise (0) to data (1): the network gets `LinearClock(-1, 1)`.
    Its velocity is the derivative by that time, the negative of ours, on every path.
    So with target "velocity", which is what the published code trains by default, the
    read-out of the predicted channels is negated here and back in `save_sit`, exactly;
    "noise" and "score" mean the same in both and nothing is negated.

    The published weights have twice the channels and the published code drops the
    second half of the output. It is kept, as a variance that no flow solver reads, so
    that saving gives the same file.

    See `load_dit` for path, heads, classes and errors.
    Source: willisma/SiT, models.py and transport/path.py; Ma et al. (2024), section 2.
    """
    layout = _sit_layout(target)
    source = open_tensors(path)
    model = _infer(source, heads, classes, SIT_CLOCK)
    return model, unpack(layout, model, source)


def save_sit(
    path: str | Path,
    model: DiT,
    params: Params,
    *,
    target: Target = "velocity",
    dtype: DType = "float32",
) -> None:
    """Write parameters in SiT's published layout: the inverse of `load_sit`."""
    layout = _sit_layout(target)
    require(model, layout.name, clock=SIT_CLOCK)
    write_tensors(path, pack(layout, model, params), dtype)


def require(model: DiT, layout: str, **fields: Any) -> None:
    """Raise ValueError unless a layout can express a model with these fields."""
    if not isinstance(model, DiT):
        raise ValueError(f"model is a {type(model).__name__}, but {layout} holds a DiT")
    if not isinstance(model.conditioning, Labels):
        raise ValueError(
            f"model.conditioning is {model.conditioning}, but {layout} needs Labels"
        )
    size, patch = model.tokens.grid, model.tokens.size
    if len(size) != 2 or size[0] != size[1] or patch[0] != patch[1]:
        raise ValueError(
            f"model has grid {size} and patch {patch}, but {layout} holds square "
            "two-dimensional grids with square patches"
        )
    out = model.out_channels or model.channels
    if out not in (model.channels, 2 * model.channels):
        raise ValueError(
            f"model.out_channels is {out}, but {layout} holds as many as the data's "
            f"{model.channels} channels, or twice as many"
        )
    basis = Sinusoids(model.basis.count)
    plain = dict(qk_norm=False, positions="sincos", eps=(1e-6, 1e-6), basis=basis)
    for field, value in (plain | fields).items():
        if getattr(model, field) != value:
            raise ValueError(
                f"model.{field} is {getattr(model, field)!r}, but {layout} means "
                f"{value!r}"
            )


def _sit_layout(target: Target) -> Layout:
    if target not in ("velocity", "noise", "score"):
        raise ValueError(
            f"target is {target!r}, but SiT's models predict 'velocity', 'noise' or "
            "'score'"
        )
    return SIT_VELOCITY if target == "velocity" else SIT


def _infer(
    source: Source, heads: int | None, classes: int | None, clock: LinearClock
) -> DiT:
    """The model whose weights these are, by their shapes."""
    if "x_embedder.proj.weight" not in source.shapes:
        keys = list(source.shapes)
        look = next(
            (look for mark, look in _LOOKS.items() if any(mark in k for k in keys)),
            f"something else (it holds {', '.join(map(repr, keys[:3])) or 'nothing'})",
        )
        raise ValueError(
            f"{source.name} looks like {look}, but accepted here is the published "
            "layout of DiT and SiT (x_embedder.proj.weight, blocks.0.attn.qkv.weight, "
            "...)"
        )
    dim, channels, patch, _ = source.shape("x_embedder.proj.weight", 4)
    _, tokens, _ = source.shape("pos_embed", 3)
    _, basis = source.shape("t_embedder.mlp.0.weight", 2)
    rows, _ = source.shape("y_embedder.embedding_table.weight", 2)
    hidden, _ = source.shape("blocks.0.mlp.fc1.weight", 2)
    features, _ = source.shape("final_layer.linear.weight", 2)
    layers = {
        int(m[1]) for k in source.shapes if (m := re.match(r"blocks\.(\d+)\.", k))
    }
    if isqrt(tokens) ** 2 != tokens:
        raise ValueError(
            f"'pos_embed' of {source.name} has {tokens} tokens, but the published "
            "layout holds square grids"
        )
    if heads is None:
        heads = {size["dim"]: size["heads"] for size in SIZES.values()}.get(dim)
    if heads is None:
        raise ValueError(
            f"{source.name} has width {dim}, which no published size has, and heads "
            "cannot be seen in the weights: pass heads"
        )
    if classes not in (None, rows, rows - 1):
        raise ValueError(
            f"classes is {classes}, but {source.name} has {rows} rows of labels: it "
            f"must be {rows - 1} (with a null class) or {rows} (without)"
        )
    side = isqrt(tokens) * patch
    return DiT(
        grid=(side, side),
        channels=channels,
        out_channels=features // patch**2,
        patch=patch,
        dim=dim,
        depth=max(layers) + 1,
        heads=heads,
        mlp_ratio=hidden / dim,
        conditioning=Labels(rows, 0.0) if classes == rows else Labels(rows - 1),
        clock=clock,
        basis=Sinusoids(basis),
    )
