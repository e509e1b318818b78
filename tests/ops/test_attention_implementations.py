# SPDX-License-Identifier: Apache-2.0
"""Every implementation of attention: forward and gradients against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import draw, float64, run, run_with_lse, without_lse

from jdit import ops
from jdit.ops.attention import chunked
from jdit.ops.attention.arg_specs import SPECS, Spec

HERE = ("reference", "recompute", "chunked")
each = pytest.mark.parametrize("implementation", HERE)
specs = pytest.mark.parametrize(
    "spec", [s.smaller() for s in SPECS.values()], ids=SPECS
)


@each
@specs
def test_output_and_gradients_against_float64(spec, implementation):
    arrays, masks = draw(spec)
    for mine, truth in zip(
        run(implementation, arrays, masks), without_lse(arrays, masks), strict=True
    ):
        np.testing.assert_allclose(mine, truth, atol=1e-5)


@pytest.mark.parametrize("implementation", ("reference", "chunked"))
@pytest.mark.parametrize(
    "spec",
    [
        Spec(2, 2, 9, 5, 8, masked=True),
        Spec(2, 4, 9, 8, 8, groups=2, segmented=True),
        Spec(2, 2, 9, 8, 8, masked=True, segmented=True),
    ],
    ids=["mask", "grouped segments", "both"],
)
def test_log_sum_exp_and_gradients_of_both(spec, implementation, monkeypatch):
    monkeypatch.setattr(chunked, "LOGITS", 4 * spec.keys)
    arrays, masks = draw(spec)
    truths = float64(arrays, masks)
    for mine, truth in zip(
        run_with_lse(implementation, arrays, masks), truths, strict=True
    ):
        np.testing.assert_allclose(mine, truth, atol=1e-5)
    assert np.isneginf(truths[1]).any()  # a query without a key was among them


def test_parts_of_the_keys_join_by_their_log_sum_exp():
    (q, k, v, *_), _ = draw(Spec(1, 2, 6, 10, 8))
    parts = [ops.attention_with_lse(q, k[:, :, s], v[:, :, s]) for s in np.s_[:4, 4:]]
    outs, lses = (jnp.stack(x) for x in zip(*parts, strict=True))
    joined = (outs * jax.nn.softmax(lses, 0)[..., None]).sum(0)
    whole, lse = ops.attention_with_lse(q, k, v)
    np.testing.assert_allclose(joined, whole, atol=1e-6)
    np.testing.assert_allclose(jax.nn.logsumexp(lses, 0), lse, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_chunks_of_any_size(chunk):
    arrays, masks = draw(Spec(2, 2, 9, 5, 8, masked=True))
    out, vjp = jax.vjp(
        lambda *a: chunked.attention(*a, **masks, chunk=chunk), *arrays[:3]
    )
    truths = without_lse(arrays, masks)
    for mine, truth in zip((out, *vjp(arrays[3])), truths, strict=True):
        np.testing.assert_allclose(mine, truth, atol=1e-5)


@each
def test_an_image_without_keys_gets_zeros(implementation):
    arrays, masks = draw(Spec(2, 1, 6, 4, 8, masked=True))
    assert not masks["mask"][0].any() and masks["mask"][1].any()
    for array in run(implementation, arrays, masks):
        assert not array[0].any()
        assert array[1].any()


@each
def test_is_deterministic(implementation):
    arrays, masks = draw(Spec(2, 2, 33, 17, 8, masked=True))
    first, second = (run(implementation, arrays, masks) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


@each
def test_forward_mode_agrees_with_reverse_mode(implementation):
    """<bar, J t> = <J^T bar, t>: objectives with a time derivative need both."""
    (q, k, v, bar, _), _ = draw(Spec(1, 2, 6, 5, 8))
    attend = partial(ops.attention, implementation=implementation)
    tangents = (jnp.cos(q), jnp.sin(k), jnp.cos(v))
    _, forward = jax.jvp(attend, (q, k, v), tangents)
    reverse = jax.vjp(attend, q, k, v)[1](bar)
    sums = sum((g * t).sum() for g, t in zip(reverse, tangents, strict=True))
    np.testing.assert_allclose((bar * forward).sum(), sums, rtol=1e-4)


@each
def test_half_precision_stays_close_and_keeps_its_dtype(implementation):
    arrays, _ = draw(Spec(1, 2, 16, 16, 64))
    half = [x.astype(jnp.bfloat16) for x in arrays]
    results = run(implementation, half, {})
    for mine, truth in zip(results, without_lse(half, {}), strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), truth, atol=0.05)


def temporaries(implementation, spec: Spec) -> int:
    """XLA's count of the bytes that output and gradients need on the way."""
    b, h, n, m, width = spec[:5]
    q, k = (jax.ShapeDtypeStruct((b, h, x, width), jnp.float32) for x in (n, m))

    attend = partial(ops.attention, implementation=implementation)
    gradients = jax.grad(lambda *a: attend(*a).sum(), (0, 1, 2))
    compiled = jax.jit(gradients).lower(q, k, k).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_long_sequences_are_chunked_and_need_less_memory():
    spec = Spec(1, 4, 2048, 2048, 16)
    automatic, dense = (temporaries(i, spec) for i in (None, "reference"))
    assert dense > 4 * 2048 * 2048 * 4  # all logits, float32
    assert automatic < 0.7 * dense


def test_unknown_implementation():
    q = jnp.zeros((1, 1, 2, 8))
    with pytest.raises(ValueError, match="implementation is 'flash', but it must be"):
        ops.attention(q, q, q, implementation="flash")


def test_cudnn_says_what_it_needs():
    if jax.default_backend() == "gpu":
        pytest.skip("this device may well run it")
    q = jnp.zeros((1, 1, 2, 8))
    with pytest.raises(ValueError, match="it needs an NVIDIA GPU"):
        ops.attention(q, q, q, implementation="cudnn")
    with pytest.raises(ValueError, match="it gives no log-sum-exp"):
        ops.attention_with_lse(q, q, q, implementation="cudnn")


def test_heads_of_keys_that_do_not_divide():
    q, k = jnp.zeros((1, 3, 2, 8)), jnp.zeros((1, 2, 2, 8))
    with pytest.raises(ValueError, match="k has 2 heads, but their number must divide"):
        ops.attention(q, k, k)
