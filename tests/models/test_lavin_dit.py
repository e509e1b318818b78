# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from album import draw
from models.counting import count, shape_of_prediction
from parity.stored import cases
from safetensors.numpy import save_file

from jdit.conditioning.shown import Shown, lay_out
from jdit.interop.lavin_dit import load_lavin_dit, save_lavin_dit
from jdit.models import LaVinDiT, lavin_dit
from jdit.recipe import load_recipe


def test_the_published_size_has_the_published_parameters():
    """Counted on the published module, which its code calls 3.4 B."""
    assert count(lavin_dit()) == 3_398_976_064


def test_pairs_are_laid_out_before_the_query():
    inputs, answers = draw(1, 2, 2, 2, 1), draw(1, 2, 2, 2, 1, seed=1)
    query = draw(1, 1, 2, 2, 1)
    row = lay_out(inputs, answers, query)[0]
    want = [inputs[0, 0], answers[0, 0], inputs[0, 1], answers[0, 1], query[0, 0]]
    assert np.array_equal(row, np.stack(want))


def test_examples_are_dropped_to_zero():
    given = {"shown": draw(8, 1, 2, 2, 1)}
    assert not np.any(Shown().null(given)["shown"])
    assert Shown().drop(jax.random.key(0), given) is given
    kept = np.asarray(Shown(0.5).drop(jax.random.key(0), given)["shown"]).any((1, 2, 3))
    assert 0 < kept.sum() < 8


def test_the_query_is_left():
    given = {"shown": draw(2, 3, 2, 2, 1)}
    null = np.asarray(Shown(query=1).null(given)["shown"])
    assert not null[:, :2].any() and np.array_equal(null[:, 2], given["shown"][:, 2])
    drawn = Shown(1.0, query=1).drop(jax.random.key(0), given)["shown"]
    assert np.array_equal(drawn, null)
    with pytest.raises(ValueError, match="query is -1"):
        Shown(query=-1)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=32, heads=4), "multiple of 6"),
        (dict(groups=5), "not a multiple of groups 5"),
        (dict(grid=(8, 8)), "three axes"),
    ],
    ids=["dim", "groups", "grid"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        LaVinDiT(**change)


def test_bad_conditions_and_weights_say_so(tmp_path):
    x = draw(2, 1, 4, 4, 2)
    for given in ({}, {"shown": x[:, :, :2]}):
        with pytest.raises(ValueError, match="'shown'.* has shape"):
            Shown().of(given, x)
    with pytest.raises(ValueError, match="holds a LaVinDiT"):
        save_lavin_dit(tmp_path / "a.safetensors", None, {})
    state = dict(cases("lavin_dit")["plain"]["weights"])
    save_file(state | {"new": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="'new', which is no part"):
        load_lavin_dit(tmp_path / "a.safetensors", heads=4)


def test_the_recipe_runs_at_full_size():
    model = load_recipe("lavin_dit").model
    shown = {"shown": ((3, 32, 32, 16), np.float32)}
    assert shape_of_prediction(model, shown) == (2, 1, 32, 32, 16)
