# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import awake, program

from jdit.conditioning import Labels, Sinusoids
from jdit.conditioning.time import fourier
from jdit.interop.ddt import load_ddt, load_dit_dh, save_ddt, save_dit_dh
from jdit.models.ddt import DDT, DiTDH, Tower, ddt, dit_dh
from jdit.models.dit import dit
from jdit.processes import Gaussian
from jdit.recipe import load_recipe
from jdit.train.state import learning_rate

TOWERS = dict(encoder=Tower(16, 2, 2, 20), decoder=Tower(16, 1, 2, 20))
TINY = DDT((4, 6), 3, 2, conditioning=Labels(5), **TOWERS)
WIDE = DiTDH(
    (4, 4),
    3,
    1,
    Tower(16, 2, 2, 20),
    Tower(24, 1, 2, 12),
    conditioning=Labels(5),
    basis=fourier(8),
)


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "model, parameters",
    [
        (ddt("B"), 130_262_800),
        (ddt("L"), 457_648_144),
        (ddt("XL"), 674_646_352),
        (dit_dh("S"), 196_357_204),
        (dit_dh("XL"), 838_380_628),
    ],
    ids=["B", "L", "XL", "DH-S", "DH-XL"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on the published modules: 675M is DDT-XL, 839M is DiT-DH-XL."""
    assert count(model) == parameters


@pytest.mark.parametrize("model", [TINY, WIDE], ids=["ddt", "wide"])
def test_the_halves_make_the_whole(model):
    params = awake(model)
    x = jax.random.normal(jax.random.key(1), (2, *model.sample_shape))
    time, label = jnp.array([0.2, 0.7]), {"label": jnp.array([1, 5])}
    z = jax.jit(model.encode)(params, x, time, label).result
    assert z.shape == (2, model.tokens.count, model.decoder.dim)
    whole = program(model)(params, x, time, label).prediction
    assert np.abs(whole).max() > 0.1
    halves = jax.jit(model.decode)(params, x, z).result
    np.testing.assert_allclose(halves, whole, atol=1e-5)


def test_another_grid_takes_the_same_parameters_and_spans_the_same_positions():
    params = jax.eval_shape(TINY.init, jax.random.key(0))
    wide = replace(TINY, grid=(8, 2))
    assert params == jax.eval_shape(wide.init, jax.random.key(0))
    here, there = (model.rotary(model.encoder)[0] for model in (TINY, wide))
    np.testing.assert_array_equal(here[0], there[0])  # first corner
    big = replace(TINY, grid=(16, 24))
    np.testing.assert_array_equal(here[-1], big.rotary(big.encoder)[0][-1])  # last


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(encoder=Tower(24, 2, 4, 8)), "encoder.dim is 24.*multiple of 16"),
        (dict(decoder=Tower(16, 0, 2, 8)), "decoder.depth is 0"),
        (dict(decoder=Tower(32, 1, 2, 8)), "must be equal"),
    ],
    ids=["heads", "depth", "widths"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_bad_sizes_say_so():
    with pytest.raises(ValueError, match="size is 'H'"):
        ddt("H")
    with pytest.raises(ValueError, match="size is 'H'"):
        dit_dh("H")


def test_files_give_the_same_model_back(tmp_path):
    path = tmp_path / "a.safetensors"
    for model, save, load, more in [
        (TINY, save_ddt, load_ddt, dict(encoder_depth=2, grid=(4, 6))),
        (WIDE, save_dit_dh, load_dit_dh, {}),
    ]:
        params = jax.jit(model.init)(jax.random.key(0))
        save(path, model, params)
        again, same = load(path, **more)
        assert again == model
        assert jax.tree.all(jax.tree.map(jnp.array_equal, params, same))


def test_what_the_layouts_cannot_hold_says_so(tmp_path):
    path = tmp_path / "a.safetensors"
    for save, model, words in [
        (save_ddt, replace(TINY, patch=1), "patches of 2 x 2"),
        (save_ddt, replace(TINY, basis=Sinusoids()), "model.basis"),
        (save_ddt, WIDE, "this layout is DDT's"),
        (save_dit_dh, dit("S"), "holds a DiTDH"),
        (save_dit_dh, replace(WIDE, grid=(2, 4)), "square"),
        (save_dit_dh, replace(WIDE, basis=Sinusoids()), "Fourier"),
        (save_dit_dh, replace(WIDE, conditioning=None), "has labels"),
    ]:
        with pytest.raises(ValueError, match=words):
            save(path, model, {})
    save_ddt(path, TINY, jax.jit(TINY.init)(jax.random.key(0)))
    with pytest.raises(ValueError, match="has 3 layers"):
        load_ddt(path)


@pytest.mark.parametrize(
    "name, parameters", [("ddt", 674_646_352), ("rae", 838_380_628)], ids=["ddt", "rae"]
)
def test_the_recipes_are_the_published_sizes(name, parameters):
    assert count(load_recipe(name).model) == parameters


def test_rae_samples_at_the_published_times():
    """RAE's integrators.py: 50 times from 1 to 0.001, shifted; the last step to 0."""
    sampling = load_recipe("rae").sampling
    found = np.asarray(sampling.grid(Gaussian(), sampling.steps))
    time = 1 - np.linspace(0, 0.999, 50)
    want = 48**0.5 * time / (1 + (48**0.5 - 1) * time)
    np.testing.assert_allclose(found[:-1], want[:-1], rtol=1e-5)
    assert found[-1] == 0 and np.isclose(want[-1], 0.0069, atol=1e-4)


def test_rae_learns_at_the_published_rate():
    """RAE's optim_utils.py: constant for 40 of 1,400 epochs, a tenth from the 800th."""
    training = load_recipe("rae").training
    epochs = np.array([0, 40, 420, 800, 1399])
    found = [
        learning_rate(training, jnp.asarray(1250 * epoch, jnp.int32))
        for epoch in epochs
    ]
    np.testing.assert_allclose(found, [2e-4, 2e-4, 1.1e-4, 2e-5, 2e-5], rtol=1e-5)
