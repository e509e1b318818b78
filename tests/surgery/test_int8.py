# SPDX-License-Identifier: Apache-2.0
"""Eight-bit weights: the error bound, the bytes, and exactness on the grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import MODEL, awake

from jdit.surgery import Int8, LoRA, Quantise, kernels, nbytes, report

W = jax.random.normal(jax.random.key(0), (3, 16, 8)) * jnp.logspace(-4, 4, 8)


def test_the_error_is_at_most_half_a_step():
    leaf = Int8.of(W)
    step = np.abs(W).max(-2, keepdims=True) / 127
    assert leaf.q.dtype == jnp.int8
    assert np.all(np.abs(leaf.dense() - W) <= step / 2 * (1 + 1e-5))


def test_what_is_on_the_grid_is_exact():
    """Each output channel has its own step: a power of two times -127 ... 127."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-127, 128, (16, 8))
    whole[0] = 127
    w = jnp.float32(whole * 2.0 ** np.arange(-4, 4))
    np.testing.assert_allclose(Int8.of(w).dense(), w, rtol=1e-6)
    np.testing.assert_array_equal(Int8.of(w).q, whole)


def test_zero_channels_stay_zero():
    leaf = Int8.of(W.at[..., 3].set(0.0))
    assert not np.any(leaf.dense()[..., 3]) and np.all(np.isfinite(leaf.scale))


def test_contract_is_the_product_with_the_dense_kernel():
    leaf = Int8.of(W[0])
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    np.testing.assert_allclose(leaf.contract(x), x @ leaf.dense(), rtol=1e-4)


def test_gradients_pass_to_the_activations():
    leaf = Int8.of(W[0])
    grad = jax.grad(lambda x: jnp.sum(leaf.contract(x)))(jnp.ones((1, 16)))
    np.testing.assert_allclose(grad[0], leaf.dense().sum(-1), rtol=1e-4)


def test_a_report_of_bytes_and_errors():
    _, weights = Quantise()(MODEL, awake(), jax.random.key(0))
    found = report(awake(), weights)
    blocks = [k for name, k in kernels(awake()).items() if name.startswith("blocks/")]
    channels = sum(k.shape[0] * k.shape[-1] for k in blocks)
    saved = 3 * sum(k.size for k in blocks) - 4 * channels
    assert found.bytes_before - found.bytes_after == saved
    assert found.bytes_after == nbytes(weights)
    # A uniform error within a step has deviation step / sqrt(12).
    assert len(found.error) == len(blocks)
    assert all(0.001 < error < 0.01 for error in found.error.values())


def test_an_adapter_cannot_be_quantised():
    adapted = LoRA(2)(MODEL, awake(), jax.random.key(0))[1]
    with pytest.raises(ValueError, match="is a LowRank, but only an array can"):
        Quantise()(MODEL, adapted, jax.random.key(0))
