# SPDX-License-Identifier: Apache-2.0
"""Flux and Qwen-Image; their tables of positions are tested with the tokens."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from models.counting import count, shape_of_prediction

from jdit.conditioning import Text
from jdit.interop.flux import load_flux, save_flux
from jdit.interop.qwen_image import load_qwen_image, save_qwen_image
from jdit.models.flux import Flux, flux_dev, flux_schnell
from jdit.models.qwen_image import QwenImage, qwen_image
from jdit.recipe import load_recipe
from jdit.surgery.base import kernels
from jdit.tokens.rotary_geometries import Axes, Diagonal

FLUX = Flux(
    grid=(4, 4),
    channels=2,
    dim=16,
    depth=1,
    single_depth=1,
    heads=2,
    geometry=Axes((2, 2, 4)),
    conditioning=Text(4, 3),
)
QWEN = QwenImage(
    grid=(4, 4),
    channels=2,
    dim=16,
    depth=1,
    heads=2,
    geometry=Diagonal((2, 2, 4)),
    conditioning=Text(4),
)
TEXT, POOLED, ONE = ((9, 4096), np.float32), ((768,), np.float32), ((), np.float32)


def zeros(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)


def test_published_sizes():
    """As diffusers' modules, which the parity tests count."""
    assert count(flux_dev()) == 11_901_408_320
    assert count(flux_schnell()) == 11_891_178_560
    assert count(qwen_image()) == 20_430_401_088


@pytest.mark.parametrize(
    "name, size, given",
    [
        ("flux", 64, {"text": TEXT, "pooled": POOLED}),
        ("ultraflux", 256, {"text": TEXT, "pooled": POOLED, "guidance": ONE}),
        ("qwen_image", 32, {"text": ((9, 3584), np.float32), "mask": ((9,), bool)}),
    ],
    ids=["flux", "ultraflux", "qwen_image"],
)
def test_recipes_at_full_size(name, size, given):
    model = load_recipe(name).model
    assert shape_of_prediction(model, given) == (2, size, size, 16)


def test_adapters_find_attention_in_the_parallel_block():
    names = kernels(zeros(FLUX))
    assert {
        "single_blocks/parallel/attention/qkv/kernel",
        "single_blocks/parallel/mlp/out/kernel",
    } <= (names.keys())


@pytest.mark.parametrize(
    "model, change, words",
    [
        (FLUX, dict(heads=3), "dim 16 is not a multiple of heads 3"),
        (FLUX, dict(geometry=Axes((4, 8))), "add up to the width of a head, 8"),
        (FLUX, dict(single_depth=0), "single_depth 0, but both must be at least 1"),
        (FLUX, dict(conditioning=Text(4)), "conditioning.pooled is None"),
        (QWEN, dict(depth=0), "depth is 0"),
        (QWEN, dict(geometry=Diagonal()), "add up to the width of a head, 8"),
    ],
    ids=["heads", "axes", "depth", "pooled", "qwen-depth", "qwen-axes"],
)
def test_what_does_not_fit_is_one_sentence(model, change, words):
    with pytest.raises(ValueError, match=words):
        replace(model, **change)


def test_a_missing_guidance_scale_is_one_sentence(unchecked):
    x, time = np.zeros((2, 4, 4, 2), np.float32), np.zeros(2, np.float32)
    given = {"text": np.zeros((2, 3, 4)), "pooled": np.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"one guidance scale per image, \(2,\)"):
        FLUX.apply(zeros(FLUX), x, time, given)


@pytest.mark.parametrize(
    "model, save, load, cases",
    [
        (
            FLUX,
            save_flux,
            load_flux,
            [
                ("out_channels", 16, "in_channels 8 and out_channels for 16"),
                ("axes_dims_rope", [4, 4], "must have 3 axes"),
                ("patch_size", 2, "patch_size 2, but only 1"),
            ],
        ),
        (
            QWEN,
            save_qwen_image,
            load_qwen_image,
            [
                ("out_channels", 4, "out_channels for 16"),
                ("zero_cond_t", True, "zero_cond_t True, but only False"),
            ],
        ),
    ],
    ids=["flux", "qwen_image"],
)
def test_folders_are_read_strictly(tmp_path, model, save, load, cases):
    save(tmp_path, model, zeros(model))
    assert load(tmp_path, grid=(4, 4))[0] == model
    with pytest.raises(ValueError, match="model.patch is 4"):
        save(tmp_path, replace(model, patch=4), zeros(model))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for field, value, words in [*cases, ("wings", 2, "unknown field 'wings'")]:
        path.write_text(json.dumps(config | {field: value}))
        with pytest.raises(ValueError, match=words):
            load(tmp_path)
