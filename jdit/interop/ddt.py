# SPDX-License-Identifier: Apache-2.0
"""The published state dicts of DDT and of RAE's wide head, in both directions."""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jdit.conditioning import Labels, LinearClock, Sinusoids
from jdit.conditioning.time import Fourier
from jdit.interop.dit import SIX, negate
from jdit.interop.files import DType, open_tensors, write_tensors
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
from jdit.interop.lightning_dit import (
    block_rules,
    check_parts,
    depth_of,
    require_square,
    rotary_tables,
    side_of,
)
from jdit.models.ddt import DDT, DECODER, ENCODER, DiTDH, Tower
from jdit.tokens import sincos
from jdit.typing import Params

ENCODERS = {28: 22, 24: 20, 12: 8}
"""Layers of the published encoders, by those of both towers."""

CLOCK = LinearClock(-1.0, 1.0)
EMA = "ema_denoiser."
"""Of the averaged weights, where a checkpoint also holds the trained ones."""


def _six(stage: str) -> dict[str, int]:
    return {key.replace("blocks", stage, 1): share for key, share in SIX.items()}


def _ddt_blocks(stage: str) -> tuple[Rule, ...]:
    theirs = "blocks.{}"
    return (
        *norm(f"{theirs}.norm1", f"{stage}/attention/norm", bias=False),
        *linear(f"{theirs}.attn.qkv", f"{stage}/attention/qkv", bias=False),
        *norm(f"{theirs}.attn.q_norm", f"{stage}/attention/q_norm", bias=False),
        *norm(f"{theirs}.attn.k_norm", f"{stage}/attention/k_norm", bias=False),
        *linear(f"{theirs}.attn.proj", f"{stage}/attention/out"),
        *norm(f"{theirs}.norm2", f"{stage}/mlp/norm", bias=False),
        *linear(
            (f"{theirs}.mlp.w1", f"{theirs}.mlp.w3"), f"{stage}/mlp/in", bias=False
        ),
        *linear(f"{theirs}.mlp.w2", f"{stage}/mlp/out", bias=False),
        *linear(f"{theirs}.adaLN_modulation.0", _six(stage)),
    )


def _ddt_layout(model: DDT) -> Layout:
    p, q = model.tokens.size
    sizes = (("p", p), ("q", q))

    def patch(key: str, name: str) -> tuple[Rule, Rule]:
        weight = ((f"{name}/kernel", 1),)
        return (
            Rule((f"{key}.weight",), weight, "d (c p q) -> (p q c) d", sizes=sizes),
            same(f"{key}.bias", f"{name}/bias"),
        )

    def final(leaf: str, name: str, pattern: str) -> Rule:
        ours = ((f"final/linear/{name}", 1),)
        return Rule((f"final_layer.linear.{leaf}",), ours, pattern, negate, sizes=sizes)

    return Layout(
        "the published DDT layout",
        (
            *patch("s_embedder.proj", "encoder"),
            *patch("x_embedder.proj", "decoder"),
            *linear("t_embedder.mlp.0", "time/in"),
            *linear("t_embedder.mlp.2", "time/out"),
            same("y_embedder.embedding_table.weight", "label/table"),
            *_ddt_blocks(ENCODER),
            *numbered(_ddt_blocks(DECODER), model.encoder.depth),
            *linear("final_layer.adaLN_modulation.0", "final/modulation"),
            final("weight", "kernel", "(c p q) d -> d (p q c)"),
            final("bias", "bias", "(c p q) -> (p q c)"),
        ),
    )


def load_ddt(
    path: str | Path,
    *,
    encoder_depth: int | None = None,
    grid: tuple[int, int] = (32, 32),
) -> tuple[DDT, Params]:
    """A model and its parameters from weights in DDT's published layout.

    path: a published checkpoint (its "ema_denoiser" weights) or the same keys, with or
        without that prefix, in a .safetensors file, for which torch is not needed.
    encoder_depth: cannot be seen in the weights; None takes the published split (28
        layers: 22 and 6; 24: 20 and 4; 12: 8 and 4). grid: of the latents, nor can it.

    Their velocity is the derivative by a time that runs from noise to data, so the
    read-out is negated here and back in `save_ddt`, exactly: the process is
    `Gaussian(Linear(), "velocity")`.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown or of the wrong shape.
    Source: MCG-NJU/DDT 1d1b4d2, src/models/denoiser/decoupled_improved_dit.py, app.py.
    """
    source = open_tensors(path).under(EMA)
    total = depth_of(source)
    depth = ENCODERS.get(total) if encoder_depth is None else encoder_depth
    if depth is None or not 0 < depth < total:
        raise ValueError(
            f"encoder_depth is {encoder_depth}, but {source.name} has {total} layers: "
            "pass how many of them are the encoder's"
        )
    dim, values = source.shape("x_embedder.proj.weight", 2)
    _, hidden = source.shape("blocks.0.mlp.w2.weight", 2)
    (width,) = source.shape("blocks.0.attn.q_norm.weight", 1)
    _, basis = source.shape("t_embedder.mlp.0.weight", 2)
    rows, _ = source.shape("y_embedder.embedding_table.weight", 2)
    shape = dict(dim=dim, heads=dim // width, hidden=hidden)
    if values % 4:
        raise ValueError(
            f"'x_embedder.proj.weight' of {source.name} reads {values} values, but the "
            "published layout has patches of 2 x 2"
        )
    model = DDT(
        grid=grid,
        channels=values // 4,
        patch=2,
        encoder=Tower(depth=depth, **shape),
        decoder=Tower(depth=total - depth, **shape),
        conditioning=Labels(rows - 1),
        basis=Sinusoids(basis, 10.0),
    )
    return model, unpack(_ddt_layout(model), model, source)


def save_ddt(
    path: str | Path, model: DDT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in DDT's published layout: the inverse of `load_ddt`.

    The layout stores no grid, clock or split of the layers. Raises ValueError naming
    the field for a model that the published code cannot express.
    """
    if type(model) is not DDT:
        raise ValueError(f"model is a {type(model).__name__}, but this layout is DDT's")
    if len(model.grid) != 2 or model.tokens.size != (2, 2):
        raise ValueError(
            f"model has grid {model.grid} and patch {model.tokens.size}, but the "
            "published DDT layout is read with two axes and patches of 2 x 2"
        )
    basis = Sinusoids(getattr(model.basis, "count", 0), 10.0)
    _require(model, clock=CLOCK, basis=basis)
    write_tensors(path, pack(_ddt_layout(model), model, params), dtype)


def _require(model: DDT, **fields: Any) -> None:
    for name, value in fields.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, but the published layout "
                f"means {value!r}"
            )
    if model.conditioning is None:
        raise ValueError("model.conditioning is None, but the layout has labels")


def _frequencies(model: DiTDH) -> np.ndarray:
    return np.asarray(model.basis.frequencies, np.float32)  # type: ignore[union-attr]


def _added(model: DiTDH) -> np.ndarray:
    return np.asarray(sincos(model.tokens.coordinates(), model.encoder.dim))[None]


def _head_layout(model: DiTDH) -> Layout:
    def width(part: str) -> Callable[[Any], int]:
        return lambda m: getattr(m, part).dim // getattr(m, part).heads

    tables = {"pos_embed": _added, "t_embedder.W": _frequencies}
    for part, theirs in (("encoder", "enc"), ("decoder", "dec")):
        cos, sin = rotary_tables(width(part))
        tables[f"{theirs}_feat_rope.freqs_cos"] = cos
        tables[f"{theirs}_feat_rope.freqs_sin"] = sin
    blocks = {
        stage: block_rules("blocks.{}", stage, qk_norm=False, shift=True)
        for stage in (ENCODER, DECODER)
    }
    wider = model.encoder.dim != model.decoder.dim
    return Layout(
        "the published layout of RAE's wide head",
        (
            *linear("s_embedder.proj", "encoder", "d c p q -> (p q c) d"),
            *linear("x_embedder.proj", "decoder", "d c p q -> (p q c) d"),
            *(linear("s_projector", "project") if wider else ()),
            *linear("t_embedder.mlp.0", "time/in"),
            *linear("t_embedder.mlp.2", "time/out"),
            same("y_embedder.embedding_table.weight", "label/table"),
            *blocks[ENCODER],
            *numbered(blocks[DECODER], model.encoder.depth),
            *norm("final_layer.norm_final", "final/norm", bias=False),
            *linear("final_layer.adaLN_modulation.1", "final/modulation"),
            *linear("final_layer.linear", "final/linear"),
        ),
        tables=tables,
        written=tuple(tables),
    )


def load_dit_dh(path: str | Path) -> tuple[DiTDH, Params]:
    """A model and its parameters from the published layout of RAE's wide head.

    path: a `stage2_model.pt` or the same keys in a .safetensors file. Everything but
    the compute dtype is read off the tensors, the time's frequencies too, which become
    part of the model. Time and velocity are as ours: nothing is negated.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown or of the wrong shape.
    Source: bytetriper/RAE a4d18c4, src/stage2/models/DDT.py.
    """
    source = open_tensors(path)
    check_parts(source, "the published layout of RAE's wide head")
    narrow, channels, patch, _ = source.shape("s_embedder.proj.weight", 4)
    wide, _, _, _ = source.shape("x_embedder.proj.weight", 4)
    rows, _ = source.shape("y_embedder.embedding_table.weight", 2)
    total = depth_of(source)
    if wide == narrow:
        raise ValueError(
            f"both towers of {source.name} are {wide} wide, so that their depths "
            "cannot be told apart"
        )
    norms = [source.shape(f"blocks.{i}.norm1.weight", 1)[0] for i in range(total)]
    deep = norms.index(wide)

    def part(dim: int, depth: int, first: int, rope: str) -> Tower:
        _, hidden = source.shape(f"blocks.{first}.mlp.w3.weight", 2)
        _, width = source.shape(f"{rope}_feat_rope.freqs_cos", 2)
        return Tower(dim, depth, dim // width, hidden)

    model = DiTDH(
        grid=(side_of(source) * patch,) * 2,
        channels=channels,
        patch=patch,
        encoder=part(narrow, deep, 0, "enc"),
        decoder=part(wide, total - deep, deep, "dec"),
        conditioning=Labels(rows - 1),
        basis=Fourier(tuple(source.read("t_embedder.W").astype(np.float32).tolist())),
    )
    return model, unpack(_head_layout(model), model, source)


def save_dit_dh(
    path: str | Path, model: DiTDH, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in the published layout: the inverse of `load_dit_dh`.

    Raises ValueError naming the field for a model that the published code cannot
    express.
    """
    if not isinstance(model, DiTDH):
        raise ValueError(
            f"model is a {type(model).__name__}, but this layout holds a DiTDH"
        )
    layout = _head_layout(model)
    require_square(model.grid, model.tokens.size, layout.name)
    if prod(model.tokens.size) != 1 or not isinstance(model.basis, Fourier):
        raise ValueError(
            f"model has patch {model.tokens.size} and basis {type(model.basis)}, but "
            f"{layout.name} means patch 1 and Fourier features"
        )
    _require(model, clock=LinearClock(1.0, 0.0))
    write_tensors(path, pack(layout, model, params), dtype)
