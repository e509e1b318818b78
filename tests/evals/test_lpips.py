# SPDX-License-Identifier: Apache-2.0
"""LPIPS with a small trunk of random weights, and the sizes of the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.evals.lpips import LPIPS, Stage, lpips_alex, lpips_vgg
from jdit.interop import lpips as published

SMALL = LPIPS((Stage(((4, 3, 1, 1),)), Stage(((6, 3, 1, 1), (5, 3, 1, 1)), 2)))


@pytest.fixture(scope="module")
def params():
    return SMALL.init(jax.random.key(0))


@pytest.fixture(scope="module")
def distance(params):
    return jax.jit(lambda a, b: SMALL.apply(params, a, b))


def images(seed):
    x = np.random.default_rng(seed).uniform(-1, 1, (2, 8, 8, 3))
    return jnp.asarray(x, jnp.float32)


def test_it_is_a_distance_of_images_apart(distance):
    a, b = images(0), images(1)
    far, parts = distance(a, b)
    assert far.shape == (2,) and parts.shape == (2, 2) and (far > 1e-3).all()
    np.testing.assert_allclose(parts.sum(0), far, rtol=1e-6)
    np.testing.assert_allclose(distance(b, a)[0], far, rtol=1e-6)
    np.testing.assert_allclose(distance(a[::-1], b[::-1])[0], far[::-1], rtol=1e-5)
    np.testing.assert_array_equal(distance(a, a)[0], 0)
    near = distance(a, a + 0.01 * (b - a))[0]
    assert (near < far).all() and (near > 0).all()


def test_heads_of_one_count_angles(params):
    """Over vectors of length 1, |a - b|^2 = 2 - 2 cos: the heads weigh channels."""
    a, b = (SMALL.features(params, images(seed)) for seed in (0, 1))
    _, parts = SMALL.apply(params, images(0), images(1))
    for one, other, part in zip(a, b, parts, strict=True):
        lengths = jnp.square(one).sum(-1) + jnp.square(other).sum(-1)
        cosine = (one * other).sum(-1)
        np.testing.assert_allclose(part, (lengths - 2 * cosine).mean((1, 2)), atol=1e-5)


def test_the_gradient_is_finite_where_a_trunk_is_silent(params):
    silent = jax.tree.map(jnp.zeros_like, params["trunk"])
    dead = {"trunk": silent, "heads": params["heads"]}
    gradient = jax.grad(lambda x: SMALL.apply(dead, x, images(1))[0].sum())(images(0))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    "model,count", [(lpips_alex(), 2_469_696), (lpips_vgg(), 14_714_688)]
)
def test_the_trunks_have_the_published_sizes(model, count):
    """Without their classifiers, as torchvision counts them; shapes at 64 pixels."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes["trunk"])) == count
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    taps = jax.eval_shape(model.features, shapes, x)
    side = (15, 7, 3, 3, 3) if model == lpips_alex() else (64, 32, 16, 8, 4)
    assert [tap.shape[1] for tap in taps] == list(side)


def test_a_file_comes_back_to_the_bit(params, tmp_path):
    path = tmp_path / "lpips.safetensors"
    published.save_lpips(path, SMALL, params)
    _, again = published.load_lpips(path, which=published.ALEX._replace(model=SMALL))
    same = jax.tree.map(np.array_equal, params, again)
    assert all(jax.tree.leaves(same))


def test_errors(tmp_path, monkeypatch, unchecked):
    with pytest.raises(ValueError, match="shapes"):
        SMALL.apply({}, jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 9, 3)))
    other = tmp_path / "alex.pth"
    other.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="would not compare"):
        published.load_lpips(other, other)
    monkeypatch.setattr(published, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip download --no-deps lpips"):
        published.load_lpips(other)
