# SPDX-License-Identifier: Apache-2.0
"""The kernels for TPUs, interpreted: against float64, and under JAX's transformations.

What only a TPU's compiler can say is in test_tpu_compiler.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import draw, float64, run, run_with_lse, without_lse

from jdit import ops
from jdit.ops.attention import pallas_tpu
from jdit.ops.attention.api import chosen
from jdit.ops.attention.arg_specs import SPECS, Spec
from jdit.ops.attention.pallas_tpu import Blocks, blocks_for
from jdit.ops.platform import compiling_for

KERNEL = partial(ops.attention, implementation="pallas_tpu")
QUICK = ("text, 77 tokens", "Lumina-Next, 512 px", "packed images")
specs = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            spec.smaller(), id=name, marks=() if name in QUICK else pytest.mark.slow
        )
        for name, spec in SPECS.items()
    ],
)


def close(found, truths, atol=1e-5):
    for mine, truth in zip(found, truths, strict=True):
        np.testing.assert_allclose(mine, truth, atol=atol)


@specs
def test_results_and_gradients_against_float64_twice_the_same(spec):
    arrays, masks = draw(spec)
    found = run_with_lse("pallas_tpu", arrays, masks)
    close(found, float64(arrays, masks))
    for one, two in zip(found, run_with_lse("pallas_tpu", arrays, masks), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "spec, forward, backward",
    [
        pytest.param(
            Spec(2, 6, 200, 300, 8, masked=True, groups=2, segmented=True),
            Blocks(2, 128, 128, 256),
            Blocks(1, 128, 128, 256),
            id="keys in two steps, all masks",
        ),
        pytest.param(
            Spec(1, 4, 200, 300, 8, groups=2),
            Blocks(1, 128, 128, 384),
            Blocks(2, 128, 128, 384),
            id="keys in three passes, shared",
        ),
        pytest.param(
            Spec(1, 2, 130, 700, 8, segmented=True),
            Blocks(1, 256, 128, 768),
            Blocks(2, 128, 256, 512),
            id="keys in six passes, a loop",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_blocks_of_any_size(spec, forward, backward, monkeypatch, request):
    """Ragged ones too: what lies behind the last token is not a number here."""

    calls = {"forward": forward, "backward": backward}
    for name, blocks in calls.items():
        kernel = partial(getattr(pallas_tpu, name), blocks=blocks)
        monkeypatch.setattr(pallas_tpu, name, kernel)
    pallas_tpu._kernels.cache_clear()
    request.addfinalizer(pallas_tpu._kernels.cache_clear)
    arrays, masks = draw(spec)
    close(run_with_lse("pallas_tpu", arrays, masks), float64(arrays, masks))


@pytest.mark.slow
def test_half_precision_stays_close_and_keeps_its_dtype():
    arrays, _ = draw(Spec(1, 2, 16, 16, 64))
    half = [x.astype(jnp.bfloat16) for x in arrays]
    results = run("pallas_tpu", half, {})
    for mine, truth in zip(results, without_lse(half, {}), strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), truth, atol=0.05)


def test_forward_mode_and_vmap():
    """<bar, J t> = <J^T bar, t>, an axis that is mapped in some arguments only."""
    (q, k, v, bar, _), masks = draw(Spec(2, 2, 6, 5, 8, masked=True))
    attend = partial(KERNEL, **masks)
    tangents = (jnp.cos(q), jnp.sin(k), jnp.cos(v))
    sizes = jnp.array([1.0, 2.0])

    @jax.jit
    def both(size):
        out, forward = jax.jvp(attend, (size * q, k, v), tangents)
        reverse = jax.vjp(attend, size * q, k, v)[1](bar)
        pairs = zip(reverse, tangents, strict=True)
        return out, (bar * forward).sum(), sum((g * t).sum() for g, t in pairs)

    out, forward, reverse = jax.vmap(both)(sizes)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)
    for size, mine in zip(sizes, out, strict=True):
        np.testing.assert_allclose(
            mine, ops.attention(size * q, k, v, **masks), atol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("scanned", [True, False], ids=["scan", "second order"])
def test_inside_checkpointed_layers(scanned):
    (q, k, v, bar, _), _ = draw(Spec(1, 2, 6, 6, 8))

    def loss(implementation, q, k, v):
        @jax.checkpoint
        def layer(x, _):
            return x + ops.attention(x, k, v, implementation=implementation), None

        if scanned:
            return (bar * jax.lax.scan(layer, q, None, length=2)[0]).sum()
        return (bar * layer(layer(q, None)[0], None)[0]).sum()

    def gradients(implementation):
        first = jax.grad(partial(loss, implementation), (0, 1, 2))
        if scanned:
            return jax.jit(first)(q, k, v)
        slope = jax.grad(lambda *a: sum((g**2).sum() for g in first(*a)), (0, 1, 2))
        return jax.jit(slope)(q, k, v)

    close(gradients("pallas_tpu"), gradients("reference"), atol=1e-4)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_blocks_follow_the_shape(spec):
    """All is covered by whole tiles, few of them empty, and fits the chip's memory."""
    groups = spec.groups or spec.heads
    k = jnp.zeros((1, groups, spec.keys, spec.width), jnp.bfloat16)
    found = blocks_for(k, spec.queries)
    assert groups % found.heads == 0 and found.resident % found.keys == 0
    for size, count in (
        (found.queries, spec.queries),
        (found.keys, spec.keys),
        (found.resident, spec.keys),
    ):
        assert size % 128 == 0 and count <= -(-count // size) * size < count + 128
    assert found.heads == 1 or found.heads * found.queries * found.resident <= 2**20
    if spec.queries == spec.keys == 256:
        assert found.heads == groups  # short ones: all heads in one step


def test_kernels_are_chosen_where_they_can_run():
    q, short, wide = (
        jax.ShapeDtypeStruct((1, 1, n, width), jnp.bfloat16)
        for n, width in ((256, 72), (16, 72), (256, 512))
    )
    with compiling_for("tpu"):
        assert chosen(q, q) == "pallas_tpu"
        assert chosen(q, short) == chosen(wide, wide) == "recompute"
        half = jax.ShapeDtypeStruct(q.shape, jnp.float16)
        assert chosen(half, half) == "recompute"
    with compiling_for("tpu", 4):  # XLA cannot divide a kernel
        assert chosen(q, q) == "recompute"
    assert chosen(q, q) == "recompute"  # on a CPU
