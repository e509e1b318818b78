# SPDX-License-Identifier: Apache-2.0
"""Adapters: what they add, how they are trained alone, merged, shipped and put back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_dit import LABELS, MODEL, awake, batch

from jdit.surgery import (
    LoRA,
    LowRank,
    Quantise,
    attach,
    dense,
    extract,
    kernels,
    merge,
    trainable,
    trainable_factors,
)

run = jax.jit(MODEL.apply)
TARGET = jax.random.normal(jax.random.key(9), (2, *MODEL.sample_shape))


def predict(weights):
    return run(weights, *batch(), LABELS).prediction


def loss(weights):
    return jnp.mean(jnp.square(predict(weights) - TARGET))


def adapted(part=LoRA(4, alpha=2.0), base=None):  # noqa: B008
    return part(MODEL, base or awake(), jax.random.key(7))[1]


def moved(weights):
    """Adapters that do something: b is drawn."""
    factors = trainable_factors(weights)
    for path, part in factors.items():
        key = jax.random.key(len(path))
        factors[path] = part | {"b": 0.1 * jax.random.normal(key, part["b"].shape)}
    return attach(weights, factors)


def test_contract_is_the_dense_product():
    rng = np.random.default_rng(0)
    w, a, b = (rng.normal(size=s) for s in ((6, 5), (6, 2), (2, 5)))
    x = rng.normal(size=(3, 4, 6))
    leaf = LowRank(*map(jnp.float32, (w, a, b, 0.7)))
    np.testing.assert_allclose(
        leaf.contract(jnp.float32(x)), x @ (w + 0.7 * a @ b), atol=1e-5
    )


def test_the_scale_is_alpha_over_rank():
    leaf = kernels(adapted(LoRA(4, alpha=2.0)))["blocks/attention/qkv/kernel"]
    np.testing.assert_array_equal(leaf.scale, [0.5] * MODEL.depth)
    assert np.all(kernels(adapted(LoRA(8)))["blocks/attention/qkv/kernel"].scale == 1)


def test_layers_and_kernels_are_drawn_apart():
    found = extract(adapted())
    rows = np.concatenate([part["a"][:, 0] for part in found.values()])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_merging_changes_no_output():
    weights = moved(adapted())
    together = merge(weights)
    assert jax.tree.structure(together) == jax.tree.structure(awake())
    assert np.abs(predict(weights) - predict(awake())).max() > 1e-3
    np.testing.assert_allclose(predict(together), predict(weights), atol=1e-5)


def test_merging_a_quantised_base():
    weights = moved(adapted(LoRA(2), Quantise()(MODEL, awake(), jax.random.key(0))[1]))
    together = kernels(merge(weights))["blocks/attention/out/kernel"]
    assert together.dtype == jnp.float32
    np.testing.assert_allclose(predict(merge(weights)), predict(weights), atol=1e-5)


def test_extract_then_attach_is_the_same():
    weights = moved(adapted())
    shipped = extract(weights)
    assert set(shipped) == {f"blocks/attention/{n}/kernel" for n in
                            ("gate", "modulation", "out", "qkv")}  # fmt: skip
    back = attach(awake(), shipped)
    assert jax.tree.structure(back) == jax.tree.structure(weights)
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    jax.tree.map(np.testing.assert_array_equal, attach(weights, shipped), weights)


def test_one_step_on_the_factors_changes_them_alone():
    weights = adapted()
    factors, tx = trainable_factors(weights), optax.adamw(1e-2)
    before, grads = jax.jit(
        jax.value_and_grad(lambda factors: loss(attach(weights, factors)))
    )(factors)
    assert jax.tree.structure(grads) == jax.tree.structure(factors)
    updates, _ = tx.update(grads, tx.init(factors), factors)
    after = attach(weights, optax.apply_updates(factors, updates))
    assert loss(after) < before
    for path, kernel in kernels(after).items():
        np.testing.assert_array_equal(
            dense(kernel.base) if path in factors else kernel, kernels(awake())[path]
        )


def test_one_masked_step_on_the_tree_changes_the_factors_alone():
    """As a trainer does that knows one tree; weight decay and scale included."""
    weights = adapted()
    tx = optax.partition(
        {True: optax.adamw(1e-2, weight_decay=0.1), False: optax.set_to_zero()},
        trainable(weights),
    )
    grads = jax.jit(jax.grad(loss))(weights)
    updates, _ = tx.update(grads, tx.init(weights), weights)
    after = optax.apply_updates(weights, updates)
    for path, before in kernels(weights).items():
        kernel = kernels(after)[path]
        if isinstance(before, LowRank):
            assert np.any(kernel.b != before.b)
            np.testing.assert_array_equal(kernel.base, before.base)
            np.testing.assert_array_equal(kernel.scale, before.scale)
        else:
            np.testing.assert_array_equal(kernel, before)
    np.testing.assert_array_equal(after["label"]["table"], weights["label"]["table"])


def test_trains_on_a_quantised_base():
    """Gradients of the factors alone: integers have none."""
    base = Quantise()(MODEL, awake(), jax.random.key(0))[1]
    weights = adapted(LoRA(2), base)
    grads = jax.jit(jax.grad(lambda f: loss(attach(weights, f))))(
        trainable_factors(weights)
    )
    assert all(np.any(part["b"]) for part in grads.values())


@pytest.mark.parametrize(
    "adapter, words",
    [
        (lambda a: {"blocks/nowhere/kernel": next(iter(a.values()))}, "no such kernel"),
        (lambda a: {"blocks/mlp/in/kernel": next(iter(a.values()))}, "its kernel has"),
        (lambda a: {p: {"a": v["a"], "b": v["b"]} for p, v in a.items()}, "no scale"),
    ],
)
def test_foreign_adapters_say_so(adapter, words):
    with pytest.raises(ValueError, match=words):
        attach(awake(), adapter(extract(adapted())))


def test_impossible_adapters_say_so():
    with pytest.raises(ValueError, match="rank is 0, but it must be at least 1"):
        LoRA(0)
    with pytest.raises(
        ValueError, match="already has an adapter; merge that one first"
    ):
        LoRA(2)(MODEL, adapted(), jax.random.key(0))
