# SPDX-License-Identifier: Apache-2.0
"""Folders of codecs: every field and tensor is known, or a sentence names it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_dit import start

from jdit.codecs import (
    AutoencoderKL,
    AutoencoderTiny,
    Tiled,
    flux_vae,
    load_codec,
    save_codec,
    sd3_vae,
    sd_vae,
    taesd,
    va_vae,
)
from jdit.codecs.diffusers import config_of

KL = AutoencoderKL(widths=(4,), blocks=1, groups=2, mid_attention=False)
TINY = AutoencoderTiny(encoder_blocks=(0,), decoder_blocks=(0,), widths=(4, 4))
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")
    for name, codec in (("kl", KL), ("tiny", TINY)):
        save_codec(folder / name, codec, start(codec))
    return folder


def copy(saved, name, folder, change):
    """A saved folder with another config."""
    config = json.loads((saved / name / "config.json").read_text())
    config |= change
    config = {key: value for key, value in config.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes((saved / name / WEIGHTS).read_bytes())


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("kl", {"flavour": 1}, "unknown field 'flavour'"),
        ("kl", {"act_fn": "gelu"}, "act_fn 'gelu', but only 'silu' is supported"),
        ("kl", {"latent_channels": 0}, "latent_channels 0, but it must be a positive"),
        ("kl", {"use_quant_conv": 1}, "use_quant_conv 1, but it must be true or false"),
        ("kl", {"scaling_factor": None}, "scaling_factor None, but it must be a num"),
        ("kl", {"latents_mean": [None]}, "latents_mean .* must be a list of numbers"),
        ("kl", {"block_out_channels": []}, r"block_out_channels \[\], but it must be"),
        ("kl", {"down_block_types": ["Down"]}, r"down_block_types \['Down'\], but"),
        ("kl", {"up_block_types": []}, "has 0 up_block_types, but 1 block_out"),
        ("kl", {"up_block_types": ["AttnUpDecoderBlock2D"]}, "at other resolutions"),
        ("kl", {"_class_name": "VQModel"}, "is of a VQModel, but accepted is"),
        ("kl", {"latent_channels": 3}, "has shape .* it must have"),
        ("kl", {"use_quant_conv": False}, "'quant_conv.bias', which is no part"),
        ("kl", {"mid_block_add_attention": True}, "lacks 'encoder.mid_block.att"),
        ("tiny", {"flavour": 1}, "unknown field 'flavour'"),
        ("tiny", {"latent_magnitude": 4}, "latent_magnitude 4, but only 3 is supp"),
        ("tiny", {"out_channels": 4}, "out_channels 4, but it must be in_channels, 3"),
        ("tiny", {"num_encoder_blocks": [1]}, "lacks 'encoder.layers.1.conv.0.weight"),
        (
            "tiny",
            {"decoder_block_out_channels": [4, 8]},
            r"decoder_block_out_channels \[4, 8\], but it must be one positive",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_honoured_is_named(saved, tmp_path, name, change, words):
    copy(saved, name, tmp_path, change)
    with pytest.raises(ValueError, match=words):
        load_codec(tmp_path)


def test_fields_of_newer_versions_may_be_absent(saved, tmp_path):
    newer = "force_upcast latents_mean latents_std mid_block_add_attention shift_factor"
    change = dict.fromkeys(newer.split(), "absent") | {"_name_or_path": "somewhere"}
    copy(saved, "kl", tmp_path, change)
    with pytest.raises(ValueError, match="lacks 'encoder.mid_block.attentions.0"):
        load_codec(tmp_path)  # that is what the absent field says
    copy(saved, "kl", tmp_path, change | {"mid_block_add_attention": False})
    assert load_codec(tmp_path)[0] == KL


def test_extra_and_lost_tensors_are_named(saved, tmp_path):
    copy(saved, "kl", tmp_path, {})
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(tensors | {"loss.logvar": np.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="has 'loss.logvar', which is no part"):
        load_codec(tmp_path)
    del tensors["decoder.conv_in.bias"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="lacks 'decoder.conv_in.bias'"):
        load_codec(tmp_path)


def test_folders_that_are_none(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load_codec(tmp_path)
    copy(saved, "kl", tmp_path, {})
    (tmp_path / f"{WEIGHTS}.index.json").write_text("{}")
    with pytest.raises(ValueError, match="holds both"):
        load_codec(tmp_path)
    with pytest.raises(ValueError, match="holds a sharded model"):
        save_codec(tmp_path, *load_codec(saved / "kl"))
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / f"{WEIGHTS}.index.json").unlink()
    with pytest.raises(FileNotFoundError, match="has none of"):
        load_codec(tmp_path)


def test_what_diffusers_cannot_express_is_not_saved(tmp_path):
    params = start(TINY)
    with pytest.raises(ValueError, match="codec is a Tiled"):
        save_codec(tmp_path, Tiled(TINY), params)
    moved = AutoencoderTiny(latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4)
    with pytest.raises(ValueError, match="codec has latents_mean"):
        save_codec(tmp_path, moved, params)
    with pytest.raises(ValueError, match="params has shape"):
        save_codec(tmp_path, KL, params)
    assert not list(tmp_path.iterdir())


def test_published_codecs():
    """What the published configs say that tells them apart."""
    assert [c().factor for c in (sd_vae, sd3_vae, flux_vae, va_vae, taesd)] == [
        8, 8, 8, 16, 8,
    ]  # fmt: skip
    config = config_of(va_vae(mean=(0.5,) * 32, std=(2.0,) * 32))
    assert config["down_block_types"][3:] == [
        "DownEncoderBlock2D",
        "AttnDownEncoderBlock2D",
    ]
    assert config["up_block_types"][0] == "AttnUpDecoderBlock2D"
    assert not np.any(sd3_vae().normalise(jnp.full((1, 16), 0.0609)))
    assert not config_of(flux_vae())["use_quant_conv"]
