# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from models.counting import count, shape_of_prediction
from parity.stored import cases
from safetensors.numpy import save_file

from jdit.conditioning import Labels, LinearClock, Text
from jdit.interop.uvit import load_uvit
from jdit.models import UViT, uvit
from jdit.recipe import load_recipe

PIXELS = dict(channels=3, clock=LinearClock(999.0))
COCO = dict(conditioning=Text(768))


@pytest.mark.parametrize(
    "model, parameters",
    [
        (uvit("S", conditioning=None, **PIXELS), 44_255_328),
        (
            uvit("M", 4, grid=(64, 64), conditioning=Labels(1000, 0.0), **PIXELS),
            130_940_292,
        ),
        (uvit("L"), 286_763_172),
        (uvit("H"), 500_832_016),
        (uvit("S", **COCO), 44_692_644),
        (uvit("S-deep", **COCO), 58_345_636),
    ],
    ids=["cifar-S", "imagenet64-M", "L", "H", "coco-S", "coco-S-deep"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on the published module."""
    assert count(model) == parameters


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(depth=3), "depth is 3, but it must be even"),
        (dict(dim=30, heads=4), "not a multiple of heads"),
        (dict(grid=(8,)), "two axes"),
    ],
    ids=["depth", "heads", "grid"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        UViT(**change)


def test_bad_conditions_and_sizes_say_so():
    with pytest.raises(ValueError, match="size is 'XXL'"):
        uvit("XXL")
    model = uvit(conditioning=Text(8), text_tokens=5, dim=16, depth=2, heads=2)
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, 32, 32, 4), np.float32)
    text = {"text": jax.ShapeDtypeStruct((1, 4, 8), np.float32)}
    time = jax.ShapeDtypeStruct((1,), np.float32)
    with pytest.raises(ValueError, match="has 4 tokens, but .* for 5"):
        jax.eval_shape(model.apply, params, x, time, text)


@pytest.mark.parametrize(
    "change, given, words",
    [
        ({}, {}, "cannot be seen in the weights: pass heads"),
        ({}, dict(heads=2, classes=4), "has 11 rows of labels"),
        ({"pos_embed": (1, 17, 16)}, dict(heads=2), "has 17 positions"),
        ({"time_embed.0.weight": (4, 4)}, dict(heads=2), "no part of the published"),
    ],
    ids=["heads", "classes", "positions", "unknown"],
)
def test_wrong_weights_say_so(tmp_path, change, given, words):
    state = dict(cases("uvit")["label"]["weights"])
    state |= {key: np.zeros(shape, np.float32) for key, shape in change.items()}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=words):
        load_uvit(tmp_path / "a.safetensors", **given)


def test_the_recipe_is_the_published_setting():
    recipe = load_recipe("uvit")
    assert shape_of_prediction(recipe.model, {"label": ((), np.int32)})[1:] == (
        32,
        32,
        4,
    )
    assert recipe.training.batch == 1024
