# SPDX-License-Identifier: Apache-2.0
"""Models: zero at the start, pure, any grid, one sentence for a wrong shape."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from tiny_dit import LABELS, MODEL, awake, batch, start

from jdit.conditioning import LinearClock
from jdit.models import DiT, dit, sit

SMALL = dict(dim=24, depth=2, heads=2, conditioning=None)
MODELS = {
    "square": MODEL,
    "wide, rotary": DiT(
        grid=(4, 12), channels=1, patch=(2, 3), positions="rotary", **SMALL
    ),
    "1d": DiT(grid=(16,), channels=3, patch=4, qk_norm=True, **SMALL),
    "3d": DiT(grid=(2, 4, 4), channels=2, out_channels=4, positions="rotary", **SMALL),
}
each = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def given(model):
    return LABELS if model.conditioning else {}


@each
def test_the_output_is_zero_at_the_start(model):
    out = jax.jit(model.apply)(start(model), *batch(model), given(model))
    shape = (2, *model.grid, model.out_channels or model.channels)
    assert out.prediction.shape == shape and not np.any(out.prediction)


@each
def test_images_are_independent_and_the_output_is_float32(model):
    """A batch gives what each of its images gives, under vmap as under a batch axis."""
    weights, (x, time) = awake(model), batch(model)
    whole = jax.jit(model.apply)(weights, x, time, given(model)).prediction
    assert whole.dtype == jnp.float32 and np.abs(whole).max() > 0.01

    def one(x, time, conditions):
        conditions = jax.tree.map(lambda c: c[None], conditions)
        return model.apply(weights, x[None], time[None], conditions).prediction[0]

    mapped = jax.jit(jax.vmap(one))(x, time, given(model))
    np.testing.assert_allclose(mapped, whole, atol=2e-5)


@pytest.mark.parametrize("model", [MODEL, MODELS["1d"]], ids=["square", "qk norm"])
def test_bfloat16_is_near_and_finite_with_finite_gradients(model):
    weights = awake(model)
    low, (x, time) = replace(model, dtype="bfloat16"), batch(model)

    def total(weights, model, size):
        out = model.apply(weights, x * size, time, given(model)).prediction
        return jnp.mean(jnp.square(out)), out

    run = partial(jax.jit, static_argnums=1)(jax.value_and_grad(total, has_aux=True))
    exact = jax.jit(model.apply)(weights, x, time, given(model)).prediction
    for size in (1.0, 1e4):
        (_, out), grads = run(weights, low, size)
        assert out.dtype == jnp.float32
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves((out, grads)))
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
        if size == 1:
            np.testing.assert_allclose(out, exact, atol=0.05 * np.abs(exact).max())


def test_order_of_patches_is_known_by_positions_alone():
    """Without the position table the network commutes with moving the patches."""
    model = replace(MODEL, positions="rotary")
    swap = lambda x: jnp.concatenate([x[:, 4:], x[:, :4]], 1)  # noqa: E731

    def commutes(model):
        x, time = batch(model)
        run = jax.jit(lambda x: model.apply(awake(), x, time, LABELS).prediction)
        return np.abs(run(swap(x)) - swap(run(x))).max()

    assert commutes(replace(MODEL, position_scale=0.0)) < 1e-5
    assert commutes(replace(model, position_scale=0.0)) < 1e-5
    assert commutes(MODEL) > 1e-2 and commutes(model) > 1e-4


def test_time_and_label_reach_the_output():
    x, time = batch()
    run = jax.jit(lambda t, c: MODEL.apply(awake(), x, t, c).prediction)
    one = run(time, LABELS)
    assert np.abs(run(time + 0.05, LABELS) - one).max() > 1e-3
    other = run(time, {"label": jnp.array([0, 2])}) - one
    assert not np.any(other[0]) and np.abs(other[1]).max() > 1e-3


@pytest.mark.parametrize(
    "shape, time, words",
    [
        ((2, 8, 8, 3), 2, r"x_t has shape \(2, 8, 8, 3\), .* \(batch, 8, 8, 2\)"),
        ((2, 2, 8, 8), 2, "batch first, channels last"),
        ((2, 8, 8, 2), 3, r"time has shape \(3,\), but it must be \(2,\)"),
    ],
)
def test_wrong_shapes_say_so(unchecked, shape, time, words):
    with pytest.raises(ValueError, match=words):
        MODEL.apply(awake(), jnp.zeros(shape), jnp.zeros(time), LABELS)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(dim=30, heads=4), "dim 30 is not a multiple of heads 4"),
        (dict(depth=0), "depth is 0"),
        (dict(grid=(9, 8)), "9 is not a multiple of 2"),
    ],
)
def test_impossible_models_say_so(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(MODEL, **changes)


@pytest.mark.parametrize(
    "size, millions", [("S", 33), ("B", 130), ("L", 458), ("XL", 675)]
)
def test_parameter_counts_are_the_published_ones(size, millions):
    """Those of the paper's appendix, which count the position table too."""
    model = dit(size, 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(shapes)) + 256 * model.dim
    assert count / 1e6 == pytest.approx(millions, rel=0.005)


def test_published_variants():
    assert dit("XL", 2).out_channels == 8 and dit("XL", 2).sample_shape == (32, 32, 4)
    assert dit("B", 8).tokens.count == 16
    assert dit("S", 4, grid=(64, 64)).tokens.count == 256
    assert sit("L", 2).clock == LinearClock(-1.0, 1.0)
    assert dit("L", 2).clock(jnp.array([0.001, 1.0])).tolist() == pytest.approx(
        [0, 999]
    )
    with pytest.raises(ValueError, match="size is 'M', but it must be one of S, B"):
        dit("M")


def test_the_start_is_the_published_one():
    """Xavier for linear layers, 0.02 for the time MLP and labels, zeros for adaLN."""
    begun = start()
    blocks = begun["blocks"]
    for branch in ("attention", "mlp"):
        for zero in ("modulation", "gate"):
            assert not any(map(np.any, jax.tree.leaves(blocks[branch][zero])))
    assert not any(map(np.any, jax.tree.leaves(begun["final"])))
    linears = [blocks["attention"]["qkv"], blocks["mlp"]["in"], blocks["mlp"]["out"]]
    for linear in (*linears, begun["patch"]):
        *_, fan_in, fan_out = linear["kernel"].shape
        bound = np.sqrt(6 / (fan_in + fan_out))
        largest = float(np.abs(linear["kernel"]).max())
        assert 0.97 * bound < largest <= bound and not np.any(linear["bias"])
    for small in (begun["time"]["in"]["kernel"], begun["time"]["out"]["kernel"]):
        assert float(small.std()) == pytest.approx(0.02, rel=0.1)
    kernels = blocks["mlp"]["in"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1])  # layers are drawn apart


def test_does_not_compile_twice():
    run, (x, time) = jax.jit(MODEL.apply), batch()
    others = (x + 1, time / 2, {"label": jnp.array([1, 5])})
    run(awake(), x, time, LABELS)
    with compilations() as compiled:
        run(awake(), *others)
    assert not compiled
