# SPDX-License-Identifier: Apache-2.0
"""Normalisation and modulation: what they make of any input, in float64's eyes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.norms import RMSNorm, layer_norm, modulate, rms_norm


def stream(dtype=jnp.float32) -> jax.Array:
    return (3 + 5 * jax.random.normal(jax.random.key(0), (2, 7, 32))).astype(dtype)


def test_layer_norm_centres_and_scales():
    y = np.asarray(layer_norm(stream()), np.float64)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-5)


def test_layer_norm_ignores_shift_and_scale_of_its_input():
    x = stream()
    np.testing.assert_allclose(layer_norm(9 * x - 4), layer_norm(x), atol=1e-5)


def test_rms_norm_has_unit_mean_square_and_ignores_scale():
    x = stream()
    y = np.asarray(rms_norm(x), np.float64)
    np.testing.assert_allclose((y**2).mean(-1), 1, atol=1e-5)
    np.testing.assert_allclose(rms_norm(9 * x), rms_norm(x), atol=1e-5)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_constant_rows_give_finite_values_and_gradients(norm):
    x = jnp.zeros((1, 2, 8))
    value, grad = jax.value_and_grad(lambda x: norm(x).sum())(x)
    assert jnp.isfinite(value) and jnp.isfinite(grad).all()


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_gradients_of_normalisation_are_orthogonal_to_its_invariances(norm):
    """The input's scale does not matter, so no gradient points along it."""
    x = stream()
    bar = jax.random.normal(jax.random.key(1), x.shape)
    if norm is layer_norm:
        x = x - x.mean(-1, keepdims=True)
    grad = jax.vjp(norm, x)[1](bar)[0]
    np.testing.assert_allclose((grad * x).sum(-1), 0, atol=1e-4)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_statistics_are_float32_in_half_precision(norm):
    """256 + noise: bfloat16 sums would lose the noise, float32 sums do not."""
    x = stream(jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    exact = norm(x.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.02)


def test_rms_norm_module_scales_each_channel():
    x, module = stream(), RMSNorm()
    params = {"scale": jnp.arange(32.0)}
    expected = rms_norm(x) * jnp.arange(32.0)
    np.testing.assert_allclose(module.apply({"params": params}, x), expected)
    assert (module.init(jax.random.key(0), x)["params"]["scale"] == 1).all()


def test_modulation_is_per_image():
    x = stream()
    shift, scale = jnp.zeros((2, 32)).at[1].set(2.0), jnp.zeros((2, 32)).at[1].set(1.0)
    y = modulate(x, shift, scale)
    np.testing.assert_array_equal(y[0], x[0])
    np.testing.assert_allclose(y[1], 2 * x[1] + 2, rtol=1e-6)
