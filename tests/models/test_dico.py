# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from models.counting import count, shape_of_prediction
from parity.stored import cases
from safetensors.numpy import save_file

from jdit.interop.dico import load_dico, save_dico
from jdit.models import DiCo, dico
from jdit.recipe import load_recipe


@pytest.mark.parametrize(
    "size, parameters",
    [
        ("S", 33_137_672),
        ("B", 129_992_712),
        ("L", 463_897_992),
        ("XL", 701_151_368),
        ("H", 1_037_408_328),
    ],
)
def test_published_sizes_have_the_published_parameters(size, parameters):
    """Counted on the published module, whose readme says 33.1 M to 701.2 M."""
    assert count(dico(size)) == parameters


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(grid=(8, 6)), "two multiples of 4"),
        (dict(depths=(1, 1, 1)), "five numbers of layers"),
        (dict(dim=6), "multiple of 4"),
    ],
    ids=["grid", "depths", "dim"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        DiCo(**change)


def test_unknown_sizes_and_weights_say_so(tmp_path):
    with pytest.raises(ValueError, match="size is 'XXL'"):
        dico("XXL")
    with pytest.raises(ValueError, match="holds a DiCo of labels"):
        save_dico(tmp_path / "a.safetensors", dico(conditioning=None), {})
    state = dict(cases("dico")["wide"]["weights"])
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="has 6 rows of labels"):
        load_dico(tmp_path / "a.safetensors", classes=9)
    save_file(state | {"new": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="'new', which is no part"):
        load_dico(tmp_path / "a.safetensors")


def test_the_recipe_is_the_published_setting():
    recipe = load_recipe("dico")
    shape = shape_of_prediction(recipe.model, {"label": ((), np.int32)})
    assert shape == (2, 32, 32, 8) and recipe.training.batch == 256
