# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from album import ALBUM, draw
from models.counting import count, shape_of_prediction
from parity.stored import cases
from safetensors.numpy import save_file

from jdit.conditioning.frames import TASKS, KnownFrames
from jdit.interop.vdt import load_vdt, save_vdt
from jdit.models import VDT, vdt
from jdit.recipe import load_recipe

KEY = jax.random.key(0)


@pytest.mark.parametrize("size, parameters", [("L", 860_855_072), ("S", 41_744_672)])
def test_published_sizes_have_the_published_parameters(size, parameters):
    """Counted on the published module."""
    assert count(vdt(size)) == parameters


def test_known_parts_take_the_place_of_the_noisy_ones():
    frames, x_t = draw(2, 3, 4, 6, 1), draw(2, 3, 4, 6, 1, seed=1)
    noised = jnp.zeros((2, 3, 4, 6)).at[:, 1:].set(1)
    mixed = KnownFrames().mix(x_t, {"frames": frames, "noised": noised})
    assert np.array_equal(mixed[:, 0], frames[:, 0])
    assert np.array_equal(mixed[:, 1:], x_t[:, 1:])
    assert KnownFrames().mix(x_t, {}) is x_t


def test_training_noises_what_each_task_says():
    given = KnownFrames(given=2, stride=3)
    masks = dict(zip(TASKS, np.asarray(given.noised(KEY, (6, 8, 8))), strict=True))
    whole = {name: mask.all((1, 2)) for name, mask in masks.items()}
    none = {name: ~mask.any((1, 2)) for name, mask in masks.items()}
    for name in TASKS[:-1]:
        assert np.array_equal(whole[name], ~none[name]), name
    assert whole["predict"].tolist() == [False] * 2 + [True] * 4
    assert whole["backward"].tolist() == [True] * 4 + [False] * 2
    assert whole["interpolate"].tolist() == [False, True, True] * 2
    assert whole["generate"].all()
    assert whole["animate"].sum() == 5
    frame = masks["region"][masks["region"].any((1, 2))][0]
    assert 0 < frame.mean() < 1
    rows, columns = frame.any(1), frame.any(0)
    assert np.array_equal(frame, rows[:, None] & columns)  # a rectangle


def test_training_draws_a_mask_for_each_video():
    conditions = {"frames": draw(16, 4, 4, 4, 1)}
    noised = np.asarray(KnownFrames(given=2).drop(KEY, conditions)["noised"])
    assert noised.shape == (16, 4, 4, 4) and noised.dtype == bool
    assert len({mask.tobytes() for mask in noised}) > 3


def test_bad_fields_and_conditions_say_so():
    with pytest.raises(ValueError, match="three axes"):
        VDT(grid=(8, 8))
    with pytest.raises(ValueError, match="not a multiple of heads"):
        VDT(dim=30, heads=4)
    with pytest.raises(ValueError, match="size is 'XXL'"):
        vdt("XXL")
    x = draw(2, 3, 4, 4, 1)
    with pytest.raises(ValueError, match="'noised'.* has shape None"):
        KnownFrames().mix(x, {"frames": x})
    with pytest.raises(ValueError, match="'frames'.* has shape"):
        KnownFrames().mix(x, {"frames": x[:, 1:], "noised": x[..., 0]})


def test_wrong_weights_say_so(tmp_path):
    state = dict(cases("vdt")["plain"]["weights"])
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="pass heads"):
        load_vdt(tmp_path / "a.safetensors")
    state["time_embed"] = state["time_embed"] + 1
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="'time_embed'.* differs by"):
        load_vdt(tmp_path / "a.safetensors", heads=3)
    with pytest.raises(ValueError, match="holds square videos"):
        save_vdt(tmp_path / "b.safetensors", ALBUM["vdt"].model, {})


def test_the_recipe_is_the_published_setting():
    recipe = load_recipe("vdt")
    shape = shape_of_prediction(recipe.model, {})
    assert shape == (2, 16, 32, 32, 8)
