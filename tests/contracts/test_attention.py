# SPDX-License-Identifier: Apache-2.0
"""Attention: the dense reference in float64 under the same mask; finite gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit import ops
from jdit.attention import SelfAttention
from jdit.tokens import Patches, rotary_table

SHAPES = {
    "square": (2, 3, 5, 5, 4),
    "cross": (1, 2, 7, 3, 8),
    "one key": (2, 1, 4, 1, 2),
    "width 72": (1, 1, 6, 6, 72),
}
each = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def draw(shape) -> tuple[jax.Array, jax.Array, jax.Array]:
    b, h, n, m, k = shape
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = [(b, h, n, k), (b, h, m, k), (b, h, m, k)]
    return tuple(map(jax.random.normal, keys, sizes))


def dense(q, k, v, mask=None) -> np.ndarray:
    """One query at a time, over the keys it may see, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, h, n in np.ndindex(q.shape[:3]):
        seen = np.ones(k.shape[2], bool) if mask is None else np.asarray(mask[b])
        weight = np.exp(k[b, h, seen] @ q[b, h, n] / np.sqrt(q.shape[-1]))
        out[b, h, n] = (weight / weight.sum()) @ v[b, h, seen]
    return out


@each
def test_equals_the_dense_reference(shape):
    q, k, v = draw(shape)
    np.testing.assert_allclose(ops.attention(q, k, v), dense(q, k, v), atol=2e-6)


@each
def test_equals_the_dense_reference_under_a_mask(shape):
    q, k, v = draw(shape)
    mask = jnp.arange(shape[3])[None] < jnp.arange(1, shape[0] + 1)[:, None]
    out = ops.attention(q, k, v, mask=mask)
    np.testing.assert_allclose(out, dense(q, k, v, mask), atol=2e-6)


@each
def test_masked_keys_are_not_seen(shape):
    q, k, v = draw(shape)
    mask = jnp.arange(shape[3])[None].repeat(shape[0], 0) < 1
    hidden = jnp.where(mask[:, None, :, None], 0.0, 1e4)
    out = ops.attention(q, k, v, mask=mask)
    np.testing.assert_array_equal(
        out, ops.attention(q, k + hidden, v + hidden, mask=mask)
    )


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("seen", [3, 1, 0])
def test_gradients_are_finite(size, seen):
    """Also for large logits, and where every key is padding."""
    q, k, v = draw((2, 2, 4, 3, 4))
    mask = jnp.arange(3)[None].repeat(2, 0) < seen

    def total(q, k, v):
        return jnp.sum(ops.attention(q * size, k, v, mask=mask) ** 2)

    value, grads = jax.value_and_grad(total, (0, 1, 2))(q, k, v)
    assert all(np.all(np.isfinite(x)) for x in (value, *grads))


def test_logits_are_float32_in_bfloat16():
    """Logits of 300 and 301 are one bfloat16 number; the softmax tells them apart."""
    q = jnp.full((1, 1, 1, 1), 1.0, jnp.bfloat16)
    k = jnp.array([256.0, 258.0], jnp.bfloat16).reshape(1, 1, 2, 1)
    v = jnp.array([0.0, 1.0], jnp.bfloat16).reshape(1, 1, 2, 1)
    out = float(ops.attention(q * 1.015625, k, v)[0, 0, 0, 0])
    assert out == pytest.approx(1 / (1 + np.exp(-2 * 1.015625)), abs=4e-3)


def test_an_unknown_implementation_says_so():
    with pytest.raises(ValueError, match="implementation is 'fastest'"):
        ops.attention(*draw(SHAPES["square"]), implementation="fastest")


def permuted(module: SelfAttention, rotary) -> tuple[jax.Array, jax.Array]:
    x = jax.random.normal(jax.random.key(1), (2, 6, 16))
    params = module.init(jax.random.key(0), x)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    return module.apply(params, x, rotary)[:, order], module.apply(
        params, x[:, order], rotary
    )


@pytest.mark.parametrize("qk_norm", [False, True])
def test_without_positions_order_does_not_matter(qk_norm):
    a, b = permuted(SelfAttention(2, qk_norm), None)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_with_positions_order_matters():
    a, b = permuted(
        SelfAttention(2), rotary_table(Patches((6,), 1).coordinates(), (8,))
    )
    assert np.abs(a - b).max() > 1e-2


def test_a_table_of_each_image_is_its_own():
    """Coordinates may differ by image: the batch is the images one by one."""
    x = jax.random.normal(jax.random.key(1), (2, 6, 16))
    module = SelfAttention(2)
    params = module.init(jax.random.key(0), x)
    places = np.arange(6.0, dtype=np.float32)[:, None]
    tables = [rotary_table(places * s, (8,)) for s in (1, 3)]
    both = module.apply(params, x, tuple(map(jnp.stack, zip(*tables, strict=True))))
    for i, table in enumerate(tables):
        one = module.apply(params, x[i : i + 1], table)
        np.testing.assert_allclose(both[i], one[0], atol=1e-5)


def test_normalised_queries_and_keys_bound_the_logits():
    """With qk_norm, scaling the input's projection changes nothing but the values."""
    x = jax.random.normal(jax.random.key(1), (1, 4, 16))
    module = SelfAttention(2, qk_norm=True)
    params = module.init(jax.random.key(0), x)["params"]
    kernel = params["qkv"]["kernel"].at[:, :32].multiply(50.0)  # queries and keys
    louder = {**params, "qkv": {**params["qkv"], "kernel": kernel}}
    a, b = (module.apply({"params": p}, x) for p in (params, louder))
    np.testing.assert_allclose(a, b, atol=1e-4)
