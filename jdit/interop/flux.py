# SPDX-License-Identifier: Apache-2.0
"""Flux.1 transformers: diffusers' folders and Black Forest Labs' own files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jdit.conditioning import Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.joint import (
    diffusers_names,
    layers_of,
    modulations,
    norms,
    packed,
    require,
    stream,
    swap,
    without_prefix,
)
from jdit.interop.layout import Layout, Rule, linear, pack, same, unpack
from jdit.models.flux import Flux
from jdit.tokens.rotary_geometries import Axes
from jdit.typing import Params

CONFIG = Config(
    names=("FluxTransformer2DModel",),
    fields=dict(
        in_channels=(64, NATURAL),
        out_channels=(None, "a positive whole number or null"),
        num_layers=(19, NATURAL),
        num_single_layers=(38, NATURAL),
        attention_head_dim=(128, NATURAL),
        num_attention_heads=(24, NATURAL),
        joint_attention_dim=(4096, NATURAL),
        pooled_projection_dim=(768, NATURAL),
        guidance_embeds=(False, "true or false"),
        axes_dims_rope=((16, 56, 56), "a list of positive whole numbers"),
    ),
    fixed=dict(patch_size=1),
)

_SINGLE, _PARALLEL = "single_transformer_blocks.{}", "single_blocks/parallel"


def _joined(theirs: str, shares: tuple[int, int]) -> tuple[Rule, ...]:
    """One matrix from [attention, hidden] is our two; the bias is attention's."""
    ours = f"{_PARALLEL}/attention/out", f"{_PARALLEL}/mlp/out"
    parts = tuple((f"{x}/kernel", n) for x, n in zip(ours, shares, strict=True))
    return (
        Rule((f"{theirs}.weight",), parts, "e d -> d e", axis=0),
        same(f"{theirs}.bias", f"{ours[0]}/bias"),
    )


def _shares(model: Flux) -> tuple[int, int]:
    return model.dim, int(model.dim * model.mlp_ratio)


def diffusers_blocks(model: Flux) -> list[Rule]:
    """diffusers' names of what Flux and HunyuanVideo share: all but tokens and text."""
    block, embed = "transformer_blocks.{}", "time_text_embed"
    image = diffusers_names(block, "image", "norm1.linear", "ff")
    text = diffusers_names(block, "text", "norm1_context.linear", "ff_context")
    attn = f"{_SINGLE}.attn"
    single = f"{_PARALLEL}/attention"
    rules = [
        *linear(f"{embed}.timestep_embedder.linear_1", "time/in"),
        *linear(f"{embed}.timestep_embedder.linear_2", "time/out"),
        *linear(f"{embed}.text_embedder.linear_1", "pooled/in"),
        *linear(f"{embed}.text_embedder.linear_2", "pooled/out"),
        *stream("double_blocks", "image", **image),
        *stream("double_blocks", "text", **text),
        *linear(f"{_SINGLE}.norm.linear", modulations(_PARALLEL)),
        *linear(tuple(f"{attn}.to_{x}" for x in "qkv"), f"{single}/qkv"),
        *norms((f"{attn}.norm_q.weight", f"{attn}.norm_k.weight"), single),
        *linear(f"{_SINGLE}.proj_mlp", f"{_PARALLEL}/mlp/in"),
        *_joined(f"{_SINGLE}.proj_out", _shares(model)),
        *linear("norm_out.linear", "final/modulation", twist=swap),
    ]
    if model.guidance:
        rules += linear(f"{embed}.guidance_embedder.linear_1", "guidance/in")
        rules += linear(f"{embed}.guidance_embedder.linear_2", "guidance/out")
    return rules


def diffusers_layout(model: Flux) -> Layout:
    """diffusers' FluxTransformer2DModel of this size."""
    rules = (
        *packed("x_embedder", "patch"),
        *linear("context_embedder", "text"),
        *diffusers_blocks(model),
        *packed("proj_out", "final/linear", read_out=True),
    )
    return Layout("diffusers' FluxTransformer2DModel", rules)


def original_single(
    model: Flux, modulation: str, scales: tuple[str, str]
) -> tuple[Rule, ...]:
    """The single-stream blocks in the layouts of Flux's and HunyuanVideo's authors."""
    single, (dim, hidden) = "single_blocks.{}", _shares(model)
    fused = {f"{_PARALLEL}/attention/qkv": 3 * dim, f"{_PARALLEL}/mlp/in": hidden}
    query, key = (f"{single}.{name}" for name in scales)
    return (
        *linear(f"{single}.{modulation}", modulations(_PARALLEL)),
        *linear(f"{single}.linear1", fused),
        *norms((query, key), f"{_PARALLEL}/attention"),
        *_joined(f"{single}.linear2", (dim, hidden)),
    )


def original_layout(model: Flux) -> Layout:
    """Black Forest Labs' own names."""

    def names(name: str) -> dict[str, Any]:
        key = f"double_blocks.{{}}.{name}"
        norm = f"{key}_attn.norm"
        return dict(
            modulation=f"{key}_mod.lin",
            qkv=f"{key}_attn.qkv",
            qk_norm=(f"{norm}.query_norm.scale", f"{norm}.key_norm.scale"),
            out=f"{key}_attn.proj",
            mlp=(f"{key}_mlp.0", f"{key}_mlp.2"),
        )

    scales = ("norm.query_norm.scale", "norm.key_norm.scale")
    rules = [
        *packed("img_in", "patch"),
        *linear("txt_in", "text"),
        *stream("double_blocks", "image", **names("img")),
        *stream("double_blocks", "text", **names("txt")),
        *original_single(model, "modulation.lin", scales),
        *linear("final_layer.adaLN_modulation.1", "final/modulation"),
        *packed("final_layer.linear", "final/linear", read_out=True),
    ]
    embeddings = {"time_in": "time", "vector_in": "pooled"}
    if model.guidance:
        embeddings["guidance_in"] = "guidance"
    for theirs, ours in embeddings.items():
        rules += linear(f"{theirs}.in_layer", f"{ours}/in")
        rules += linear(f"{theirs}.out_layer", f"{ours}/out")
    return Layout("the published Flux layout", tuple(rules))


def load_flux(path: str | Path, **config: Any) -> tuple[Flux, Params]:
    """Flux.1 and its parameters, from a folder of diffusers or a single file.

    path: a folder with FluxTransformer2DModel's config.json or a pipeline's, or a file
        in the original layout (`double_blocks.0.img_attn.qkv.weight`), with or without
        the prefix "model.diffusion_model."; neighbours of such a file's transformer
        are left alone.
    config: fields of the model that the weights do not tell: grid, geometry, and, of a
        single file, heads (width / 128 if not given).

    Raises FileNotFoundError, and ValueError naming the field or tensor that is
    unknown, missing or cannot be honoured.
    Source: diffusers 0.42, transformer_flux.py; black-forest-labs/flux, model.py.
    """
    path = Path(path)
    if path.is_file() and not path.name.endswith(".json"):
        source = without_prefix(open_tensors(path))
        model = Flux(**_infer(source) | config)
        return model, unpack(original_layout(model), model, source)
    folder = CONFIG.find(path)
    model = Flux(**_fields(folder) | config)
    return model, unpack(diffusers_layout(model), model, open_weights(folder))


def save_flux(
    path: str | Path, model: Flux, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder, or the original layout where `path` ends in
    .safetensors.

    The inverse of `load_flux`. Neither layout stores the grid, and of the geometry
    only its axes are stored. Raises ValueError naming a field that the layout cannot
    express.
    """
    require(model, Flux, mlp_ratio=4.0, patch=2, clock=Flux().clock)
    if type(model) is not Flux:  # one that has more parameters
        raise ValueError(
            f"model is a {type(model).__name__}, but this layout holds a Flux"
        )
    path = Path(path)
    if path.suffix == ".safetensors":
        write_tensors(path, pack(original_layout(model), model, params), dtype)
        return
    config = dict(
        _class_name=CONFIG.names[0],
        patch_size=1,
        in_channels=4 * model.channels,
        out_channels=None,
        num_layers=model.depth,
        num_single_layers=model.single_depth,
        attention_head_dim=model.dim // model.heads,
        num_attention_heads=model.heads,
        joint_attention_dim=model.conditioning.features,
        pooled_projection_dim=model.conditioning.pooled,
        guidance_embeds=model.guidance,
        axes_dims_rope=list(model.geometry.axes),
    )
    write_folder(path, config, pack(diffusers_layout(model), model, params), dtype)


def latent_channels(
    where: Path, channels: int, out: int | None, axes: Sequence[int]
) -> int:
    """The latents' channels, given those of packed tokens; ValueError if they differ.

    Three axes are needed, since published positions are (0, row, column).
    """
    if channels % 4 or out not in (None, channels):
        raise ValueError(
            f"{where} has in_channels {channels} and out_channels for {out} values a "
            "token, but they must be equal: 2 x 2 latents"
        )
    if len(axes) != 3:
        raise ValueError(
            f"{where} has axes_dims_rope {list(axes)}, but it must have 3 axes"
        )
    return channels // 4


def _fields(folder: Path) -> dict[str, Any]:
    fields, where = CONFIG.read(folder), folder / "config.json"
    axes, channels = tuple(fields["axes_dims_rope"]), fields["in_channels"]
    heads = fields["num_attention_heads"]
    return dict(
        channels=latent_channels(where, channels, fields["out_channels"], axes),
        dim=heads * fields["attention_head_dim"],
        depth=fields["num_layers"],
        single_depth=fields["num_single_layers"],
        heads=heads,
        guidance=fields["guidance_embeds"],
        geometry=Axes(axes),
        conditioning=Text(
            fields["joint_attention_dim"], fields["pooled_projection_dim"]
        ),
    )


def _infer(source: Source) -> dict[str, Any]:
    if "double_blocks.0.img_attn.qkv.weight" not in source.shapes:
        raise ValueError(
            f"{source.name} lacks 'double_blocks.0.img_attn.qkv.weight', so it is not "
            "in the published layout of Flux"
        )
    dim, packed_channels = source.shape("img_in.weight", 2)
    return dict(
        channels=packed_channels // 4,
        dim=dim,
        depth=max(layers_of(source, r"double_blocks\.(\d+)\.")) + 1,
        single_depth=max(layers_of(source, r"single_blocks\.(\d+)\."), default=-1) + 1,
        heads=max(1, dim // 128),
        guidance="guidance_in.in_layer.weight" in source.shapes,
        conditioning=Text(
            source.shape("txt_in.weight", 2)[1],
            source.shape("vector_in.in_layer.weight", 2)[1],
        ),
    )
