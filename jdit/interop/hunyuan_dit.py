# SPDX-License-Identifier: Apache-2.0
"""diffusers' HunyuanDiT2DModel folders, in both directions."""

from pathlib import Path
from typing import Any

import numpy as np

from jdit.conditioning import LinearClock, Sinusoids
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType
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
from jdit.models.hunyuan_dit import HunyuanDiT, TwoTexts
from jdit.typing import Params

_CLOCK = LinearClock(1000.0, -1.0)


def _swap(values: np.ndarray, model: Any) -> np.ndarray:
    """Scale and shift change places: theirs come in the other order."""
    return np.roll(values, values.shape[-1] // 2, -1)


def _block(ours: str) -> tuple[Rule, ...]:
    theirs = "blocks.{}"
    rules = [
        *norm(f"{theirs}.norm1.norm", f"{ours}/attention/norm"),
        *linear(f"{theirs}.norm1.linear", f"{ours}/attention/shift"),
        *linear(
            tuple(f"{theirs}.attn1.to_{x}" for x in "qkv"), f"{ours}/attention/qkv"
        ),
        *linear(f"{theirs}.attn1.to_out.0", f"{ours}/attention/out"),
        *norm(f"{theirs}.norm2", f"{ours}/cross/norm"),
        *linear(f"{theirs}.attn2.to_q", f"{ours}/cross/q"),
        *linear(tuple(f"{theirs}.attn2.to_{x}" for x in "kv"), f"{ours}/cross/kv"),
        *linear(f"{theirs}.attn2.to_out.0", f"{ours}/cross/out"),
        *norm(f"{theirs}.norm3", f"{ours}/mlp/norm"),
        *linear(f"{theirs}.ff.net.0.proj", f"{ours}/mlp/in"),
        *linear(f"{theirs}.ff.net.2", f"{ours}/mlp/out"),
    ]
    for number, name in ((1, "attention"), (2, "cross")):
        for x in "qk":
            rules += norm(f"{theirs}.attn{number}.norm_{x}", f"{ours}/{name}/{x}_norm")
    if ours == "skip_blocks":
        rules += norm(f"{theirs}.skip_norm", f"{ours}/enter/norm")
        rules += linear(f"{theirs}.skip_linear", f"{ours}/enter/linear")
    return tuple(rules)


def _layout(model: HunyuanDiT) -> Layout:
    extra = "time_extra_emb"
    rules = [
        *linear("pos_embed.proj", "patch", "d c p q -> (p q c) d"),
        *linear(f"{extra}.timestep_embedder.linear_1", "time/in"),
        *linear(f"{extra}.timestep_embedder.linear_2", "time/out"),
        same(f"{extra}.pooler.positional_embedding", "pool/position"),
        *linear(f"{extra}.pooler.q_proj", "pool/q"),
        *linear(tuple(f"{extra}.pooler.{x}_proj" for x in "kv"), "pool/kv"),
        *linear(f"{extra}.pooler.c_proj", "pool/out"),
        *linear(f"{extra}.extra_embedder.linear_1", "told/in"),
        *linear(f"{extra}.extra_embedder.linear_2", "told/out"),
        *linear("text_embedder.linear_1", "second_text/in"),
        *linear("text_embedder.linear_2", "second_text/out"),
        same("text_embedding_padding", "padding/table"),
        *linear("norm_out.linear", "final/modulation", twist=_swap),
        *linear("proj_out", "final/linear"),
    ]
    if model.sizes:
        rules.append(same(f"{extra}.style_embedder.weight", "style/table"))
    first = 0
    for stage in model.stages:
        rules += numbered(_block(stage.name), first)
        first += stage.depth
    return Layout("diffusers' HunyuanDiT2DModel", tuple(rules))


_CONFIG = Config(
    names=("HunyuanDiT2DModel",),
    fields=dict(
        num_attention_heads=(16, NATURAL),
        attention_head_dim=(88, NATURAL),
        in_channels=(None, NATURAL),
        patch_size=(None, NATURAL),
        sample_size=(32, NATURAL),
        hidden_size=(1152, NATURAL),
        num_layers=(28, NATURAL),
        mlp_ratio=(4.0, "a number"),
        learn_sigma=(True, "true or false"),
        cross_attention_dim=(1024, NATURAL),
        cross_attention_dim_t5=(2048, NATURAL),
        pooled_projection_dim=(1024, NATURAL),
        text_len=(77, NATURAL),
        text_len_t5=(256, NATURAL),
        use_style_cond_and_image_meta_size=(True, "true or false"),
    ),
    fixed=dict(activation_fn="gelu-approximate", norm_type="layer_norm"),
)


def load_hunyuan_dit(path: str | Path) -> tuple[HunyuanDiT, Params]:
    """A model and its parameters from the folder of a HunyuanDiT2DModel.

    path: that folder, or that of a pipeline with one.

    Raises FileNotFoundError, and ValueError naming the field or the tensor that is
    unknown, missing or cannot be honoured.
    Source: diffusers 0.42, hunyuan_transformer_2d.py.
    """
    folder = _CONFIG.find(path)
    config = _CONFIG.read(folder)
    heads, channels = config["num_attention_heads"], config["in_channels"]
    dim = heads * config["attention_head_dim"]
    if config["hidden_size"] != dim:
        raise ValueError(
            f"{folder}/config.json has hidden_size {config['hidden_size']}, but "
            f"{heads} heads of {config['attention_head_dim']} are {dim}"
        )
    model = HunyuanDiT(
        grid=(config["sample_size"],) * 2,
        channels=channels,
        out_channels=2 * channels if config["learn_sigma"] else channels,
        patch=config["patch_size"],
        dim=dim,
        depth=config["num_layers"],
        heads=heads,
        mlp_ratio=float(config["mlp_ratio"]),
        pooled=config["pooled_projection_dim"],
        sizes=config["use_style_cond_and_image_meta_size"],
        conditioning=TwoTexts(
            features=config["cross_attention_dim"],
            second_features=config["cross_attention_dim_t5"],
            length=config["text_len"],
            second_length=config["text_len_t5"],
        ),
    )
    return model, unpack(_layout(model), model, open_weights(folder))


def save_hunyuan_dit(
    path: str | Path, model: HunyuanDiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write the folder of a HunyuanDiT2DModel: the inverse of `load_hunyuan_dit`.

    Raises ValueError naming the field for a model that diffusers cannot express.
    """
    for name, value in dict(clock=_CLOCK, basis=Sinusoids(), base=32).items():
        if getattr(model, name) != value:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, but diffusers' "
                f"HunyuanDiT2DModel means {value!r}"
            )
    out = model.out_channels or model.channels
    if model.grid[0] != model.grid[1] or out not in (
        model.channels,
        2 * model.channels,
    ):
        raise ValueError(
            f"model has grid {model.grid} and {out} output channels, but diffusers' "
            "config means a square grid, and the data's channels once or twice"
        )
    text = model.conditioning
    config = dict(
        _class_name=_CONFIG.names[0],
        num_attention_heads=model.heads,
        attention_head_dim=model.dim // model.heads,
        in_channels=model.channels,
        patch_size=model.patch,
        sample_size=model.grid[0],
        hidden_size=model.dim,
        num_layers=model.depth,
        mlp_ratio=model.mlp_ratio,
        learn_sigma=out != model.channels,
        cross_attention_dim=text.features,
        cross_attention_dim_t5=text.second_features,
        pooled_projection_dim=model.pooled,
        text_len=text.length,
        text_len_t5=text.second_length,
        use_style_cond_and_image_meta_size=model.sizes,
        **_CONFIG.fixed,
    )
    write_folder(path, config, pack(_layout(model), model, params), dtype)
