# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from album import draw
from models.counting import count, shape_of_prediction
from parity.stored import cases
from safetensors.numpy import save_file

from jdit.interop.dimr import load_dimr, save_dimr
from jdit.models import DiMR, Output, dimr
from jdit.models.dimr import Level
from jdit.objectives.pyramid import Pyramid, pooled
from jdit.processes import Gaussian, Linear
from jdit.recipe import load_recipe

LOW, HIGH = Level(8, 8, 2, 2, 2), Level(4, 4, 2)


@pytest.mark.parametrize(
    "size, parameters", [("XL", 505_046_408), ("G", 1_056_352_904)]
)
def test_published_sizes_have_the_published_parameters(size, parameters):
    """Counted on the published module, whose readme says 505 M and 1.06 B."""
    assert count(dimr(size)) == parameters


def test_pooled_noise_keeps_its_variance():
    noise = draw(4, 32, 64, 3)
    assert pooled(noise, 32) is not None and np.array_equal(pooled(noise, 32), noise)
    assert np.std(pooled(noise, 8)) == pytest.approx(1, abs=0.05)


def test_the_loss_is_zero_where_every_resolution_is_right():
    process = Gaussian(Linear(), "noise")
    x_0 = jnp.zeros((2, 8, 8, 1))

    def network(x_t, time, conditions):  # x_t is time * noise
        noise = x_t / time[:, None, None, None]
        return Output(noise, {}, {"coarse": (pooled(noise, 4),)})

    key = jax.random.key(0)
    losses, _ = Pyramid()(key, network, {}, process, x_0, {})
    np.testing.assert_allclose(losses, 0, atol=1e-8)
    with pytest.raises(ValueError, match="weights has 1 entries"):
        Pyramid(weights=(1.0,))(key, network, {}, process, x_0, {})


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(grid=(8,)), "two axes"),
        (dict(levels=(HIGH, LOW)), "a level with heads and then levels without"),
        (dict(levels=(Level(9, 8, 2, 2, 2),)), "not a multiple of heads"),
        (dict(levels=(Level(8, 8, 1, 2, 2),)), "depth is 1"),
        (dict(levels=(LOW, Level(4, 4, 2, patch=4))), "no multiple"),
        (dict(grid=(16, 16), largest=(8, 8)), "positions are learned for"),
    ],
    ids=["grid", "order", "heads", "depth", "sizes", "largest"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        DiMR(**{"grid": (8, 8), "levels": (LOW, HIGH)} | change)


def test_unknown_sizes_and_weights_say_so(tmp_path):
    with pytest.raises(ValueError, match="size is 'XXL'"):
        dimr("XXL")
    with pytest.raises(ValueError, match="a square grid"):
        save_dimr(tmp_path / "a.safetensors", DiMR(grid=(8, 4), levels=(LOW, HIGH)), {})
    state = dict(cases("dimr")["plain"]["weights"])
    save_file(state | {"new": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="'new', which is no part"):
        load_dimr(tmp_path / "a.safetensors", heads=2)


def test_the_recipe_is_the_published_setting():
    recipe = load_recipe("dimr")
    shape = shape_of_prediction(recipe.model, {"label": ((), np.int32)})
    assert shape == (2, 32, 32, 4) and recipe.training.batch == 1024
