# SPDX-License-Identifier: Apache-2.0
"""HunyuanVideo's weights: diffusers' folders and Tencent's own files."""

from pathlib import Path
from typing import Any

from jdit.conditioning import Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.flux import diffusers_blocks, original_single
from jdit.interop.joint import layers_of, require, stream, without_prefix
from jdit.interop.layout import Layout, Rule, linear, norm, pack, unpack
from jdit.models.hunyuan_video import HunyuanVideo
from jdit.tokens.rotary_geometries import Axes
from jdit.typing import Params

CONFIG = Config(
    names=("HunyuanVideoTransformer3DModel",),
    fields=dict(
        in_channels=(16, NATURAL),
        out_channels=(16, "a positive whole number or null"),
        num_attention_heads=(24, NATURAL),
        attention_head_dim=(128, NATURAL),
        num_layers=(20, NATURAL),
        num_single_layers=(40, NATURAL),
        num_refiner_layers=(2, NATURAL),
        mlp_ratio=(4.0, "a number"),
        patch_size=(2, NATURAL),
        guidance_embeds=(True, "true or false"),
        text_embed_dim=(4096, NATURAL),
        pooled_projection_dim=(768, NATURAL),
        rope_theta=(256.0, "a number"),
        rope_axes_dim=((16, 56, 56), "a list of positive whole numbers"),
    ),
    fixed=dict(image_condition_type=None, patch_size_t=1, qk_norm="rms_norm"),
)

_ENTER = "d c r p q -> (r p q c) d"


def _read_out(theirs: str, model: HunyuanVideo) -> tuple[Rule, ...]:
    """The last linear layer, whose outputs are stored channels first."""
    sizes = (("r", 1), ("p", model.patch), ("q", model.patch))
    patterns = {
        "weight": ("kernel", "(c r p q) d -> d (r p q c)"),
        "bias": ("bias", "(c r p q) -> (r p q c)"),
    }
    return tuple(
        Rule((f"{theirs}.{key}",), ((f"final/linear/{ours}", 1),), pattern, sizes=sizes)
        for key, (ours, pattern) in patterns.items()
    )


def _refiner(
    block: str,
    *,
    qkv: str | tuple[str, ...],
    out: str,
    mlp: tuple[str, str],
    gates: str,
) -> list[Rule]:
    """The refiner's layers: names of theirs, within one of them."""
    attention, ours = (f"refiner_blocks/{name}" for name in ("attention", "mlp"))
    keys = (qkv,) if isinstance(qkv, str) else qkv
    return [
        *norm(f"{block}.norm1", f"{attention}/norm"),
        *linear(tuple(f"{block}.{key}" for key in keys), f"{attention}/qkv"),
        *linear(f"{block}.{out}", f"{attention}/out"),
        *norm(f"{block}.norm2", f"{ours}/norm"),
        *linear(f"{block}.{mlp[0]}", f"{ours}/in"),
        *linear(f"{block}.{mlp[1]}", f"{ours}/out"),
        *linear(f"{block}.{gates}", {f"{attention}/gate": 1, f"{ours}/gate": 1}),
    ]


def diffusers_layout(model: HunyuanVideo) -> Layout:
    """diffusers' HunyuanVideoTransformer3DModel of this size."""
    text, told = "context_embedder", "context_embedder.time_text_embed"
    rules = (
        *linear("x_embedder.proj", "patch", _ENTER),
        *linear(f"{text}.proj_in", "text"),
        *linear(f"{told}.timestep_embedder.linear_1", "text_time/in"),
        *linear(f"{told}.timestep_embedder.linear_2", "text_time/out"),
        *linear(f"{told}.text_embedder.linear_1", "text_pooled/in"),
        *linear(f"{told}.text_embedder.linear_2", "text_pooled/out"),
        *_refiner(
            f"{text}.token_refiner.refiner_blocks.{{}}",
            qkv=tuple(f"attn.to_{x}" for x in "qkv"),
            out="attn.to_out.0",
            mlp=("ff.net.0.proj", "ff.net.2"),
            gates="norm_out.linear",
        ),
        *diffusers_blocks(model),
        *_read_out("proj_out", model),
    )
    return Layout("diffusers' HunyuanVideoTransformer3DModel", rules)


def original_layout(model: HunyuanVideo) -> Layout:
    """Tencent's own names."""

    def names(name: str) -> dict[str, Any]:
        key = f"double_blocks.{{}}.{name}"
        return dict(
            modulation=f"{key}_mod.linear",
            qkv=f"{key}_attn_qkv",
            qk_norm=(f"{key}_attn_q_norm.weight", f"{key}_attn_k_norm.weight"),
            out=f"{key}_attn_proj",
            mlp=(f"{key}_mlp.fc1", f"{key}_mlp.fc2"),
        )

    scales = ("q_norm.weight", "k_norm.weight")
    rules = [
        *linear("img_in.proj", "patch", _ENTER),
        *linear("txt_in.input_embedder", "text"),
        *linear("txt_in.c_embedder.linear_1", "text_pooled/in"),
        *linear("txt_in.c_embedder.linear_2", "text_pooled/out"),
        *_refiner(
            "txt_in.individual_token_refiner.blocks.{}",
            qkv="self_attn_qkv",
            out="self_attn_proj",
            mlp=("mlp.fc1", "mlp.fc2"),
            gates="adaLN_modulation.1",
        ),
        *linear("vector_in.in_layer", "pooled/in"),
        *linear("vector_in.out_layer", "pooled/out"),
        *stream("double_blocks", "image", **names("img")),
        *stream("double_blocks", "text", **names("txt")),
        *original_single(model, "modulation.linear", scales),
        *linear("final_layer.adaLN_modulation.1", "final/modulation"),
        *_read_out("final_layer.linear", model),
    ]
    times = {"txt_in.t_embedder": "text_time", "time_in": "time"}
    if model.guidance:
        times["guidance_in"] = "guidance"
    for theirs, ours in times.items():
        rules += linear(f"{theirs}.mlp.0", f"{ours}/in")
        rules += linear(f"{theirs}.mlp.2", f"{ours}/out")
    return Layout("the published layout of HunyuanVideo", tuple(rules))


def load_hunyuan_video(path: str | Path, **config: Any) -> tuple[HunyuanVideo, Params]:
    """HunyuanVideo and its parameters, from a folder of diffusers or a single file.

    path: a folder with HunyuanVideoTransformer3DModel's config.json or a pipeline's; or
        a file in the layout of the authors' code (`img_in.proj.weight`), with or
        without the prefix "model.diffusion_model.", whose neighbours are left alone.
    config: fields of the model that the weights do not tell: grid and, of a file, heads
        (width / 128 if not given) and geometry.

    Raises FileNotFoundError, and ValueError naming the field or tensor that is
    unknown, missing or cannot be honoured: image to video is not read.
    Source: diffusers 0.42, transformer_hunyuan_video.py and single_file_utils.py.
    """
    path = Path(path)
    if path.is_file():
        source = without_prefix(open_tensors(path))
        model = HunyuanVideo(**_infer(source) | config)
        return model, unpack(original_layout(model), model, source)
    folder = CONFIG.find(path)
    model = HunyuanVideo(**_fields(folder) | config)
    return model, unpack(diffusers_layout(model), model, open_weights(folder))


def save_hunyuan_video(
    path: str | Path, model: HunyuanVideo, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder, or the authors' layout where `path` ends in
    .safetensors.

    The inverse of `load_hunyuan_video`; neither layout stores the grid, and the
    authors' no geometry. Raises ValueError naming a field that the layout cannot
    express.
    """
    require(model, HunyuanVideo, clock=HunyuanVideo().clock)
    axes, theta = tuple(model.geometry.axes), getattr(model.geometry, "theta", None)
    path = Path(path)
    if path.suffix == ".safetensors":
        require(model, HunyuanVideo, mlp_ratio=4.0, patch=2)
        write_tensors(path, pack(original_layout(model), model, params), dtype)
        return
    require(model, HunyuanVideo, geometry=Axes(axes, theta or 256.0))
    config = dict(
        _class_name=CONFIG.names[0],
        in_channels=model.channels,
        out_channels=model.channels,
        num_attention_heads=model.heads,
        attention_head_dim=model.dim // model.heads,
        num_layers=model.depth,
        num_single_layers=model.single_depth,
        num_refiner_layers=model.refiner_depth,
        mlp_ratio=model.mlp_ratio,
        patch_size=model.patch,
        guidance_embeds=model.guidance,
        text_embed_dim=model.conditioning.features,
        pooled_projection_dim=model.conditioning.pooled,
        rope_theta=theta,
        rope_axes_dim=list(axes),
        **CONFIG.fixed,
    )
    write_folder(path, config, pack(diffusers_layout(model), model, params), dtype)


def _fields(folder: Path) -> dict[str, Any]:
    fields, where = CONFIG.read(folder), folder / "config.json"
    channels, axes = fields["in_channels"], tuple(fields["rope_axes_dim"])
    if fields["out_channels"] not in (None, channels):
        raise ValueError(
            f"{where} has in_channels {channels} and out_channels "
            f"{fields['out_channels']}, but only text-to-video is supported, where "
            "they are equal"
        )
    if len(axes) != 3:
        raise ValueError(
            f"{where} has rope_axes_dim {list(axes)}, but it must have 3 axes"
        )
    heads = fields["num_attention_heads"]
    return dict(
        channels=channels,
        patch=fields["patch_size"],
        dim=heads * fields["attention_head_dim"],
        depth=fields["num_layers"],
        single_depth=fields["num_single_layers"],
        refiner_depth=fields["num_refiner_layers"],
        heads=heads,
        mlp_ratio=float(fields["mlp_ratio"]),
        guidance=fields["guidance_embeds"],
        geometry=Axes(axes, float(fields["rope_theta"])),
        conditioning=Text(fields["text_embed_dim"], fields["pooled_projection_dim"]),
    )


def _infer(source: Source) -> dict[str, Any]:
    """The model whose weights these are, by their shapes."""
    if "double_blocks.0.img_attn_qkv.weight" not in source.shapes:
        raise ValueError(
            f"{source.name} lacks 'double_blocks.0.img_attn_qkv.weight', so it is not "
            "in the published layout of HunyuanVideo"
        )

    def depth(pattern: str) -> int:
        return max(layers_of(source, rf"{pattern}\.(\d+)\."), default=-1) + 1

    dim, channels, _, patch, _ = source.shape("img_in.proj.weight", 5)
    return dict(
        channels=channels,
        patch=patch,
        dim=dim,
        depth=depth("double_blocks"),
        single_depth=depth("single_blocks"),
        refiner_depth=depth(r"txt_in\.individual_token_refiner\.blocks"),
        heads=max(1, dim // 128),
        guidance="guidance_in.mlp.0.weight" in source.shapes,
        conditioning=Text(
            source.shape("txt_in.input_embedder.weight", 2)[1],
            source.shape("vector_in.in_layer.weight", 2)[1],
        ),
    )
