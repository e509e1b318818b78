# SPDX-License-Identifier: Apache-2.0
"""Every implementation of attention: forward and gradients against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit import ops
from jdit.ops.attention import chunked
from jdit.ops.attention.arg_specs import SPECS, Spec

HERE = ("reference", "recompute", "chunked")
each = pytest.mark.parametrize("implementation", HERE)
specs = pytest.mark.parametrize(
    "spec", [s.smaller() for s in SPECS.values()], ids=SPECS
)


def draw(spec: Spec) -> tuple[list[jax.Array], jax.Array | None]:
    """q, k, v, the output's cotangent, and a mask that leaves one image no key."""
    b, h, n, m, width = spec[:5]
    shapes = [(b, h, n, width), (b, h, m, width), (b, h, m, width), (b, h, n, width)]
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [jax.random.normal(key, s) for key, s in zip(keys, shapes, strict=True)]
    if not spec.masked:
        return arrays, None
    lengths = jnp.arange(b)[:, None] * (m // 2)  # the first image sees nothing
    return arrays, jnp.arange(m)[None] < lengths


def float64(arrays, mask) -> tuple[np.ndarray, ...]:
    """The output and the gradients of q, k and v, from the chain rule by hand."""
    q, k, v, bar = (np.asarray(x, np.float64) for x in arrays)
    scale = q.shape[-1] ** -0.5
    seen = np.ones((len(q), k.shape[2])) if mask is None else np.asarray(mask)
    seen = seen[:, None, None, :]
    weight = np.exp(scale * q @ k.swapaxes(-1, -2)) * seen
    total = weight.sum(-1, keepdims=True)
    weight = weight / np.where(total == 0, 1, total)
    d_weight = bar @ v.swapaxes(-1, -2)
    d_logits = weight * (d_weight - (weight * d_weight).sum(-1, keepdims=True))
    d_q, d_k = scale * d_logits @ k, scale * d_logits.swapaxes(-1, -2) @ q
    return weight @ v, d_q, d_k, weight.swapaxes(-1, -2) @ bar


def run(implementation, arrays, mask):
    """The output and its gradients, compiled."""

    @jax.jit
    def both(q, k, v, bar):
        def attend(q, k, v):
            return ops.attention(q, k, v, mask=mask, implementation=implementation)

        out, vjp = jax.vjp(attend, q, k, v)
        return out, *vjp(bar)

    return both(*arrays)


@each
@specs
def test_output_and_gradients_against_float64(spec, implementation):
    arrays, mask = draw(spec)
    for mine, truth in zip(
        run(implementation, arrays, mask), float64(arrays, mask), strict=True
    ):
        np.testing.assert_allclose(mine, truth, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_chunks_of_any_size(chunk):
    arrays, mask = draw(Spec(2, 2, 9, 5, 8, masked=True))
    out, vjp = jax.vjp(lambda *a: chunked.attention(*a, mask, chunk), *arrays[:3])
    for mine, truth in zip((out, *vjp(arrays[3])), float64(arrays, mask), strict=True):
        np.testing.assert_allclose(mine, truth, atol=1e-5)


@each
def test_an_image_without_keys_gets_zeros(implementation):
    arrays, mask = draw(Spec(2, 1, 6, 4, 8, masked=True))
    assert not mask[0].any() and mask[1].any()
    for array in run(implementation, arrays, mask):
        assert not array[0].any()
        assert array[1].any()


@each
def test_is_deterministic(implementation):
    arrays, mask = draw(Spec(2, 2, 33, 17, 8, masked=True))
    first, second = (run(implementation, arrays, mask) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


@each
def test_forward_mode_agrees_with_reverse_mode(implementation):
    """<bar, J t> = <J^T bar, t>: objectives with a time derivative need both."""
    (q, k, v, bar), _ = draw(Spec(1, 2, 6, 5, 8))
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
    results = run(implementation, half, None)
    for mine, truth in zip(results, float64(half, None), strict=True):
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


@pytest.mark.accelerator
@specs
def test_cudnn_against_float64(spec):
    if jax.default_backend() != "gpu":
        pytest.skip("needs an NVIDIA GPU")
    arrays, mask = draw(spec)
    half = [x.astype(jnp.bfloat16) for x in arrays]
    results = run("cudnn", half, mask)
    for mine, truth in zip(results, float64(half, mask), strict=True):
        np.testing.assert_allclose(mine.astype(jnp.float32), truth, atol=0.06)
