# SPDX-License-Identifier: Apache-2.0
"""Surgery: outputs unchanged at the neutral setting, round trips, composition."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from tiny_dit import LABELS, MODEL, awake, batch

from jdit.surgery import Chain, LoRA, Quantise, kernels, nbytes

NEUTRAL = {
    "LoRA": LoRA(4),
    "LoRA everywhere": LoRA(2, alpha=8.0, targets="kernel$"),
    "nothing": Chain(()),
}
CHANGES = {
    "int8": Quantise(),
    "int8 of attention": Quantise(lambda path: "attention/qkv" in path),
    "LoRA on int8": Chain((Quantise(), LoRA(4, targets="^blocks/.*(qkv|in)/kernel$"))),
}
ALL = NEUTRAL | CHANGES
run = jax.jit(MODEL.apply)


def each(parts):
    return pytest.mark.parametrize("part", parts.values(), ids=parts.keys())


def operate(part):
    return part(MODEL, awake(), jax.random.key(7))


def predict(weights):
    return run(weights, *batch(), LABELS).prediction


@each(NEUTRAL)
def test_outputs_are_unchanged_at_the_neutral_setting(part):
    model, weights = operate(part)
    assert model == MODEL
    np.testing.assert_allclose(predict(weights), predict(awake()), atol=1e-6)


@each(CHANGES)
def test_outputs_are_near(part):
    exact = predict(awake())
    error = np.linalg.norm(predict(operate(part)[1]) - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.02


@each(ALL)
def test_keeps_the_kernels_their_shapes_and_the_input(part):
    before = jax.tree.map(np.asarray, awake())
    _, weights = operate(part)
    jax.tree.map(np.testing.assert_array_equal, before, awake())
    shapes = {name: kernel.shape for name, kernel in kernels(weights).items()}
    assert shapes == {name: kernel.shape for name, kernel in kernels(awake()).items()}
    assert {name: kernel.dtype for name, kernel in kernels(weights).items()} == {
        name: kernel.dtype for name, kernel in kernels(awake()).items()
    }


@each(ALL)
def test_is_a_function_that_can_be_shaped_without_memory(part):
    """So that a checkpoint's template costs nothing."""
    _, weights = operate(part)
    shapes = jax.eval_shape(
        lambda p, k: part(MODEL, p, k)[1], awake(), jax.random.key(7)
    )
    assert jax.tree.structure(shapes) == jax.tree.structure(weights)
    assert nbytes(shapes) == nbytes(weights)


@each(ALL)
def test_survives_flattening_by_path(part):
    _, weights = operate(part)
    leaves, tree = jax.tree_util.tree_flatten_with_path(weights)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    assert len(set(names)) == len(names)
    table = {
        name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)
    }
    back = jax.tree.unflatten(tree, [table[name] for name in names])
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    assert flatten_dict(unflatten_dict(table, sep="/"), sep="/").keys() == table.keys()


@each(ALL)
def test_survives_a_checkpoint(part, tmp_path):
    _, weights = operate(part)
    like = jax.eval_shape(lambda p, k: part(MODEL, p, k)[1], awake(), jax.random.key(7))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", weights)
        checkpointer.wait_until_finished()
        back = checkpointer.restore(tmp_path / "saved", like)
    assert jax.tree.structure(back) == jax.tree.structure(weights)
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), back, weights)
    assert all(jax.tree.leaves(same))


@each(ALL)
def test_runs_in_bfloat16_and_unrolled(part):
    from dataclasses import replace

    _, weights = operate(part)
    low = replace(MODEL, dtype="bfloat16", unroll=3)
    out = jax.jit(low.apply)(weights, *batch(), LABELS).prediction
    exact = predict(weights)
    assert np.linalg.norm(out - exact) / np.linalg.norm(exact) < 0.05


@pytest.mark.parametrize("make", [LoRA, Quantise])
def test_targets_that_name_nothing_say_so(make):
    with pytest.raises(ValueError, match="targets 'atention' names no kernel; this"):
        make(targets="atention")(MODEL, awake(), jax.random.key(0))
