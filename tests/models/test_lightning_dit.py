# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jdit.conditioning import Labels
from jdit.interop.lightning_dit import load_lightning_dit, save_lightning_dit
from jdit.models.dit import dit
from jdit.models.lightning_dit import LightningDiT, lightning_dit
from jdit.processes import Gaussian
from jdit.recipe import load_recipe

TINY = LightningDiT((4, 4), 3, None, 1, 16, 2, 2, 24, conditioning=Labels(5))


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "size, patch, parameters",
    [
        ("B", 1, 130_359_584),
        ("B", 2, 130_507_136),
        ("L", 2, 458_087_520),
        ("XL", 1, 674_961_824),
        ("XL", 2, 675_183_104),
        ("1p0B", 1, 1_029_007_904),
        ("1p6B", 1, 1_631_308_368),
    ],
    ids=lambda value: str(value),
)
def test_published_sizes_have_the_published_parameters(size, patch, parameters):
    """Counted on the published module: 675M is XL."""
    assert count(lightning_dit(size, patch)) == parameters


def test_another_grid_takes_the_same_parameters():
    params = jax.jit(TINY.init)(jax.random.key(0))
    wide = replace(TINY, grid=(2, 5))
    out = wide.apply(
        params, jnp.ones((1, 2, 5, 3)), jnp.ones(1), {"label": jnp.zeros(1, int)}
    )
    assert out.prediction.shape == (1, 2, 5, 3)


def test_half_a_head_turns_by_the_row_and_half_by_the_column():
    at = {"label": jnp.zeros(1, int)}
    _, context = TINY.embed(_params(), jnp.ones((1, 4, 4, 3)), jnp.ones(1), at)
    cos = context.rotary[0].reshape(4, 4, 4)  # two pairs each, of heads of 8
    assert jnp.all(cos[..., :2] == cos[:, :1, :2])
    assert jnp.all(cos[..., 2:] == cos[:1, :, 2:])


def _params():
    return jax.jit(TINY.init)(jax.random.key(0))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=24, heads=4), "multiple of 16"),
        (dict(depth=0), "depth is 0"),
        (dict(grid=(3, 4), patch=2), "patch"),
    ],
    ids=["heads", "depth", "patch"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)
    with pytest.raises(ValueError, match="size is 'XXL'"):
        lightning_dit("XXL")


def test_files_that_do_not_fit_say_so(tmp_path):
    path = tmp_path / "a.safetensors"
    save_lightning_dit(path, TINY, _params())
    model, params = load_lightning_dit(path)
    assert model == replace(TINY, clock=model.clock)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, _params()))
    for change, words in [
        (dict(grid=(4, 5)), "square"),
        (dict(clock=dit("S").clock), "clock"),
        (dict(conditioning=None), "has labels"),
    ]:
        with pytest.raises(ValueError, match=words):
            save_lightning_dit(path, replace(TINY, **change), {})
    with pytest.raises(ValueError, match="is a DiT"):
        save_lightning_dit(path, dit("S"), {})
    save_file({"x_embedder.proj.weight": np.ones((1, 1, 1, 1))}, path)
    with pytest.raises(ValueError, match="with SwiGLU only"):
        load_lightning_dit(path)


def test_the_recipe_is_the_published_size():
    recipe = load_recipe("lightning_dit")
    assert count(recipe.model) == 674_961_824
    assert recipe.model.sample_shape == (16, 16, 32)


def test_the_published_loss_sees_size_and_direction():
    """Twice the target is off by its length, minus the target by twice, and turned."""
    objective, process = load_recipe("lightning_dit").objective, Gaussian()
    x_0 = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))

    def scaled(factor):
        def network(x_t, time, conditions):
            place = time[:, None, None, None]  # x_t = x_0 + t (noise - x_0)
            return SimpleNamespace(prediction=factor * (x_t - x_0) / place)

        return objective(jax.random.key(1), network, {}, process, x_0, {})[1]

    found = {factor: scaled(factor) for factor in (1.0, 2.0, -1.0)}
    np.testing.assert_allclose(found[1.0]["error"], 0, atol=1e-5)
    for factor, angle in ((1.0, 0.0), (2.0, 0.0), (-1.0, 2.0)):
        np.testing.assert_allclose(found[factor]["direction"], angle, atol=1e-4)
    ratio = found[-1.0]["error"] / found[2.0]["error"]
    np.testing.assert_allclose(ratio, 4, rtol=1e-3)
