# SPDX-License-Identifier: Apache-2.0
"""How representation autoencoders are stored: diffusers' folder, and the authors'."""

import re
from collections.abc import Iterable
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jdit.codecs.folder import Fields, Folder
from jdit.codecs.rae import GUARD, AutoencoderRAE, PatchDecoder
from jdit.encoders.folders.vision import layout as vision_layout
from jdit.encoders.vision import IMAGENET_MEAN, IMAGENET_STD, VisionTransformer
from jdit.encoders.vision_models import dinov2, siglip_base
from jdit.interop.config import NATURAL, Config
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, norm, pack, same, unpack
from jdit.typing import Params

HEADS = {768: 12, 1024: 16, 1152: 16}
"""Of the published decoders, by width: ViT-B, ViT-L and ViT-XL."""


def mae(size: int = 224, **fields: Any) -> VisionTransformer:
    """MAE's ViT-B/16 (He et al., 2022), every patch of it shown."""
    sizes: dict[str, Any] = dict(patch=16, dim=768, depth=12, heads=12, hidden=3072)
    return VisionTransformer(**dict(size=size, eps=1e-12) | sizes | fields)


def encoder_of(kind: str, **fields: Any) -> VisionTransformer:
    """The encoder of diffusers' name, with the fields that diffusers leaves open."""
    if kind == "dinov2":
        return dinov2("b", registers=4, hidden=4 * fields["dim"], **fields)
    return siglip_base(256, **fields) if kind == "siglip2" else mae(**fields)


def kind_of(encoder: VisionTransformer) -> str:
    """diffusers' name of an encoder. Raises ValueError for one it has no name of."""
    kind = "siglip2" if encoder.readout == "attention" else "mae"
    kind = "dinov2" if encoder.registers else kind
    names = ("dim", "depth", "heads", "patch", "mean", "std")
    fields = {name: getattr(encoder, name) for name in names}
    if encoder != encoder_of(kind, **fields) or encoder.dim != 64 * encoder.heads:
        raise ValueError(
            "codec.encoder is none that diffusers' AutoencoderRAE can express: a "
            "DINOv2 with 4 registers, a SigLIP or an MAE with heads 64 wide"
        )
    return kind


def _under(rules: Iterable[Rule], theirs: str, ours: str) -> list[Rule]:
    """The same rules within a larger model."""
    return [
        replace(
            rule,
            theirs=tuple(theirs + key for key in rule.theirs),
            ours=tuple((ours + name, share) for name, share in rule.ours),
        )
        for rule in rules
    ]


def _vit(layer: str, ours: str, attention: dict[str, str]) -> list[Rule]:
    """The layers of MAE; attention: names of its four projections."""
    rules = [
        *norm(f"{layer}.layernorm_before", f"{ours}/attention_norm"),
        *norm(f"{layer}.layernorm_after", f"{ours}/mlp_norm"),
        *linear(f"{layer}.intermediate.dense", f"{ours}/mlp/in"),
        *linear(f"{layer}.output.dense", f"{ours}/mlp/out"),
    ]
    for name, theirs in attention.items():
        rules += linear(f"{layer}.attention.{theirs}", f"{ours}/attention/{name}")
    return rules


_TRANSFORMERS = {
    "q": "attention.query",
    "k": "attention.key",
    "v": "attention.value",
    "out": "output.dense",
}
_DIFFUSERS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def _mae_rules() -> list[Rule]:
    patch = "d c p q -> (p q c) d"
    return [
        same("embeddings.cls_token", "class", "1 1 d -> d"),
        same("embeddings.position_embeddings", "position/table", "1 n d -> n d"),
        *linear("embeddings.patch_embeddings.projection", "patch", patch),
        *_vit("encoder.layer.{}", "layers", _TRANSFORMERS),
    ]


def _decoder_rules(attention: dict[str, str]) -> list[Rule]:
    return [
        *linear("decoder_embed", "in"),
        same("trainable_cls_token", "class", "1 1 d -> d"),
        *_vit("decoder_layers.{}", "layers", attention),
        *norm("decoder_norm", "norm"),
        *linear("decoder_pred", "out"),
    ]


def folder_layout(codec: AutoencoderRAE) -> Layout:
    """diffusers' AutoencoderRAE, its encoder named as transformers 4 does."""
    if kind_of(codec.encoder) == "mae":
        encoder = _mae_rules()
    else:
        whole = vision_layout(codec.encoder).rules
        encoder = [rule for rule in whole if not rule.ours[0][0].startswith("norm/")]
    rules = _under(encoder, "encoder.", "encoder/")
    rules += _under(_decoder_rules(_DIFFUSERS), "decoder.", "decoder/")
    tables = {
        "encoder_mean": lambda codec: _pixel(codec.encoder.mean),
        "encoder_std": lambda codec: _pixel(codec.encoder.std),
    }
    if codec.normalised:
        places = "c h w -> h w c"
        rules += [
            same("_latents_mean", "statistics/mean", places),
            same("_latents_std", "statistics/std", places),
        ]
    else:
        tables |= {
            "_latents_mean": lambda codec: np.zeros(1, np.float32),
            "_latents_std": lambda codec: np.ones(1, np.float32),
        }
    written = tuple(tables)
    tables["decoder.decoder_pos_embed"] = lambda codec: _positions(codec.decoder)
    return Layout("diffusers' AutoencoderRAE", tuple(rules), tables, written)


def _pixel(values: tuple[float, ...]) -> np.ndarray:
    return np.asarray(values, np.float32)[None, :, None, None]


def _positions(decoder: PatchDecoder) -> np.ndarray:
    return np.asarray(decoder.positions)[None]


def _view(source: Source) -> Source:
    """The weights with the encoder's names of transformers 4."""
    names = {_old_name(key): key for key in source.shapes}
    shapes = {old: source.shapes[key] for old, key in names.items()}
    return replace(source, shapes=shapes, load=lambda old: source.load(names[old]))


def _old_name(key: str) -> str:
    inner = key.removeprefix("encoder.")
    if inner == key:
        return key
    if inner.startswith("layers."):  # MAE
        inner = inner.replace("layers.", "encoder.layer.", 1)
        inner = inner.replace(".mlp.fc1.", ".intermediate.dense.")
        inner = inner.replace(".mlp.fc2.", ".output.dense.")
    for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
        new, old = f".attention.{letter}_proj.", f".attention.attention.{word}."
        inner = inner.replace(new, old)
    inner = inner.replace(".attention.o_proj.", ".attention.output.dense.")
    if re.match(r"(embeddings\.p\w+_embedding\.|encoder\.layers\.|head\.)", inner):
        inner = f"vision_model.{inner}"
    return f"encoder.{inner}"


_DECODER = {
    "decoder_hidden_size": "dim",
    "decoder_num_hidden_layers": "depth",
    "decoder_num_attention_heads": "heads",
    "decoder_intermediate_size": "hidden",
    "patch_size": "patch",
}


def _read(path: Path, given: Fields) -> Fields:
    kind, width = given["encoder_type"], given["encoder_hidden_size"]
    if kind not in ("dinov2", "siglip2", "mae"):
        raise ValueError(
            f"{path} has encoder_type {kind!r}, but it must be 'dinov2', 'siglip2' or "
            "'mae'"
        )
    patch, size = given["encoder_patch_size"], given["encoder_input_size"]
    if width % 64 or size % patch:
        raise ValueError(
            f"{path} has encoder_hidden_size {width}, encoder_input_size {size} and "
            f"encoder_patch_size {patch}, but the first must be a multiple of 64, and "
            "the second of the third"
        )
    side = size // patch
    if given["image_size"] not in (None, side * given["patch_size"]):
        raise ValueError(
            f"{path} has image_size {given['image_size']}, but with these patches it "
            f"must be {side * given['patch_size']}"
        )
    mean, std = (
        tuple(given[f"encoder_norm_{name}"] or default)
        for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    )
    sizes = dict(dim=width, depth=given["encoder_num_hidden_layers"], patch=patch)
    own = {ours: given[theirs] for theirs, ours in _DECODER.items()}
    return {
        "encoder": encoder_of(kind, heads=width // 64, mean=mean, std=std, **sizes),
        "decoder": PatchDecoder(width, (side, side), **own),
        "normalised": given["latents_mean"] is not None,
    }


def _write(codec: AutoencoderRAE) -> Fields:
    encoder, decoder = codec.encoder, codec.decoder
    side = _side(decoder)
    return {
        "encoder_type": kind_of(encoder),
        "encoder_hidden_size": encoder.dim,
        "encoder_patch_size": encoder.patch,
        "encoder_num_hidden_layers": encoder.depth,
        "encoder_input_size": side * encoder.patch,
        "encoder_norm_mean": encoder.mean,
        "encoder_norm_std": encoder.std,
        "image_size": side * decoder.patch,
        **{theirs: getattr(decoder, ours) for theirs, ours in _DECODER.items()},
    }


def _side(decoder: PatchDecoder) -> int:
    if len(set(decoder.grid)) != 1 or decoder.channels != 3:
        raise ValueError(
            f"decoder has grid {decoder.grid} and {decoder.channels} channels, but "
            "stored are squares and 3 channels"
        )
    return decoder.grid[0]


def _told(codec: AutoencoderRAE, params: Params) -> Fields:
    """The statistics, which diffusers keeps in the config too, for their shape."""
    own = params["statistics"] if codec.normalised else {}
    return {
        f"latents_{name}": rearrange(np.asarray(x), "h w c -> c h w").tolist()
        for name, x in own.items()
    }


RAE = Folder(
    AutoencoderRAE,
    Config(
        ("AutoencoderRAE",),
        {
            "encoder_type": ("dinov2", "a string"),
            "encoder_hidden_size": (768, NATURAL),
            "encoder_patch_size": (14, NATURAL),
            "encoder_num_hidden_layers": (12, NATURAL),
            "encoder_input_size": (224, NATURAL),
            "encoder_norm_mean": (None, "a list of numbers or null"),
            "encoder_norm_std": (None, "a list of numbers or null"),
            "decoder_hidden_size": (512, NATURAL),
            "decoder_num_hidden_layers": (8, NATURAL),
            "decoder_num_attention_heads": (16, NATURAL),
            "decoder_intermediate_size": (2048, NATURAL),
            "patch_size": (16, NATURAL),
            "image_size": (None, "a positive whole number or null"),
            "latents_mean": (None, "a list or null"),
            "scaling_factor": (1.0, "a number"),
        },
        {"num_channels": 3, "reshape_to_2d": True},
        ("latents_std", "noise_tau", "use_encoder_loss"),
        folder="vae",
    ),
    {"scaling_factor": "scaling_factor"},
    folder_layout,
    _read,
    _write,
    view=_view,
    told=_told,
)

PUBLISHED = Layout(
    "the layout of RAE's decoders",
    tuple(_under(_decoder_rules(_TRANSFORMERS), "", "")),
    {"decoder_pos_embed": _positions},
    ("decoder_pos_embed",),
)


def load_rae(
    decoder: str | Path,
    encoder: tuple[VisionTransformer, Params],
    statistics: str | Path | None = None,
    *,
    heads: int | None = None,
) -> tuple[AutoencoderRAE, Params]:
    """A codec and its parameters from the authors' files.

    decoder: weights of the published decoder (model.pt), or the same keys in a
        .safetensors file. A file without "trainable_cls_token" has zeros for it, as the
        authors' code does.
    encoder: as `load_encoder` reads it off transformers' folder, e.g. of
        dinov2-with-registers-base or siglip2-base-patch16-256.
    statistics: stat.pt, "mean" and "var" (`c h w`) of latents; None for none.
    heads: cannot be seen in the weights; None takes the published count of this width
        (768: 12, 1024: 16, 1152: 16).

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown, or of the wrong shape.
    """
    own, source = encoder[0], _with_class(open_tensors(decoder))
    dim, features = source.shape("decoder_embed.weight", 2)
    if heads is None and dim not in HEADS:
        raise ValueError(
            f"heads is None, but {decoder} is {dim} wide, and known are {[*HEADS]}"
        )
    depth = len({k.split(".")[1] for k in source.shapes if "decoder_layers." in k})
    side = isqrt(source.shape("decoder_pos_embed", 3)[1] - 1)
    pixels = source.shape("decoder_pred.weight", 2)[0]
    made = PatchDecoder(
        features,
        (side, side),
        isqrt(pixels // own.channels),
        own.channels,
        dim,
        depth,
        heads or HEADS[dim],
        source.shape("decoder_layers.0.intermediate.dense.weight", 2)[0],
    )
    codec = AutoencoderRAE(own, made, normalised=statistics is not None)
    params: Params = {
        "encoder": {k: v for k, v in encoder[1].items() if k != "norm"},
        "decoder": unpack(PUBLISHED, made, source),
    }
    if statistics is not None:
        params["statistics"] = _statistics(open_tensors(statistics), codec)
    return codec, params


def save_rae(
    path: str | Path, codec: AutoencoderRAE, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write the decoder as `load_rae` reads it. Raises ValueError for another codec."""
    if not isinstance(codec, AutoencoderRAE):
        raise ValueError(
            f"codec is a {type(codec).__name__}, but this layout holds the decoder of "
            "an AutoencoderRAE"
        )
    _side(codec.decoder)
    tensors = pack(PUBLISHED, codec.decoder, params["decoder"])
    write_tensors(path, tensors, dtype)


def _with_class(source: Source) -> Source:
    name = "trainable_cls_token"
    if name in source.shapes:
        return source
    zero = np.zeros((1, 1, source.shape("decoder_embed.weight", 2)[0]), np.float32)
    shapes = {**source.shapes, name: zero.shape}
    return replace(
        source,
        shapes=shapes,
        load=lambda key: zero if key == name else source.load(key),
    )


def _statistics(source: Source, codec: AutoencoderRAE) -> Params:
    want = (codec.latent_channels, *codec.decoder.grid)
    values = []
    for name in ("mean", "var"):
        shape = source.shape(name, 3)
        if shape != want:
            raise ValueError(
                f"{name!r} of {source.name} has shape {shape}, but it must be {want}"
            )
        values.append(rearrange(source.read(name), "c h w -> h w c").astype(np.float64))
    std = np.sqrt(values[1] + 1e-5) - GUARD
    return {"mean": jnp.asarray(values[0], jnp.float32), "std": jnp.asarray(std, "f4")}
