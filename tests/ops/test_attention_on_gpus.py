# SPDX-License-Identifier: Apache-2.0
"""Attention on NVIDIA GPUs: what is chosen, cuDNN's side, and both on a real one.

Without a GPU, XLA's attention stands in for cuDNN's kernel.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import draw, run, run_with_lse, without_lse

from jdit import ops
from jdit.ops.attention import api, cudnn, rates
from jdit.ops.attention.api import chosen
from jdit.ops.attention.arg_specs import SPECS, Spec
from jdit.ops.platform import capability, compiling_for, spread_over

CUDNN = partial(ops.attention, implementation="cudnn")


def shapes(n=256, m=256, width=72, dtype=jnp.bfloat16):
    return (jax.ShapeDtypeStruct((1, 2, x, width), dtype) for x in (n, m))


@pytest.fixture
def hopper(monkeypatch):
    """As if this machine had such a GPU, whose cuDNN takes everything."""
    for module in (api, cudnn):
        monkeypatch.setattr(module, "capability", lambda: (9, 0))
    monkeypatch.setattr(cudnn, "_accepted", lambda *_: True)
    with compiling_for("gpu"):
        yield monkeypatch


def test_what_no_gpu_has_run_is_not_chosen(hopper):
    assert chosen(*shapes()) == "cudnn"
    assert chosen(*shapes(), masked=True) == chosen(*shapes(), lse=True) == "recompute"
    hopper.setattr(cudnn, "_accepted", lambda *_: False)
    assert chosen(*shapes()) == "recompute"


@pytest.fixture
def verified(monkeypatch):
    """As if it had."""
    monkeypatch.setattr(rates, "VERIFIED", ("pallas_gpu", "cudnn"))


def test_the_fastest_that_runs_is_chosen(hopper, verified):
    assert chosen(*shapes()) == "cudnn"
    assert chosen(*shapes(dtype=jnp.float16)) == "cudnn"
    assert chosen(*shapes(), masked=True) == chosen(*shapes(), lse=True) == "pallas_gpu"
    table = [rates.Rate(1024, 64, {"cudnn": 1, "pallas_gpu": 2})]
    hopper.setattr(rates, "HOPPER", table)
    assert chosen(*shapes()) == "pallas_gpu"


def test_the_plain_path_is_left_for_the_others(hopper):
    for q, k in (
        shapes(dtype=jnp.float32), shapes(m=16), shapes(width=512), shapes(width=12),
    ):  # fmt: skip
        assert chosen(q, k) == "recompute"
    assert chosen(*shapes(4096, 4096, dtype=jnp.float32)) == "chunked"
    with compiling_for("gpu", 4):  # XLA cannot divide a kernel
        assert chosen(*shapes()) == "recompute"
        mesh = jax.make_mesh((1, 1), ("data", "tensor"))
        with spread_over(mesh, ("data",), "tensor"):
            assert chosen(*shapes()) == "cudnn"


@pytest.mark.parametrize(
    "found, plain, masked",
    [
        ((9, 0), "pallas_gpu", "pallas_gpu"),
        ((8, 0), "recompute", "recompute"),
        (None, "recompute", "recompute"),
    ],
    ids=["Hopper", "Ampere", "unknown"],
)
def test_where_cudnn_refuses(found, plain, masked, hopper, verified):
    """Other GPUs have no kernel of ours: none was compiled for them."""
    for module in (api, cudnn):
        hopper.setattr(module, "capability", lambda: found)
    hopper.setattr(cudnn, "_accepted", lambda *_: False)
    assert chosen(*shapes()) == plain
    assert chosen(*shapes(), masked=True) == masked


def test_cudnn_is_for_ampere_and_later(hopper):
    for found, name in (((8, 0), "cudnn"), ((7, 5), "recompute"), (None, "recompute")):
        hopper.setattr(cudnn, "capability", lambda found=found: found)
        hopper.setattr(api, "capability", lambda found=found: found)
        assert chosen(*shapes()) == name


def test_without_a_gpu_jax_itself_refuses_cudnn():
    if jax.default_backend() == "gpu":
        pytest.skip("this device may well run it")
    cudnn._accepted.cache_clear()
    q, k = shapes()
    assert not cudnn._accepted((q.shape, q.dtype), (k.shape, k.dtype))
    with compiling_for("gpu"):
        assert capability() is None and not cudnn.runs(q, k)
        assert chosen(q, k) == "recompute"  # and so it runs


def test_rates_are_of_the_nearest_row(verified, monkeypatch):
    for row in rates.HOPPER:
        assert rates.ranked(row.tokens, row.width) == ["cudnn", "pallas_gpu"]
    other = rates.Rate(256, 64, {"cudnn": 1, "pallas_gpu": 2})
    monkeypatch.setattr(rates, "HOPPER", (*rates.HOPPER, other))
    assert rates.ranked(300, 72) == ["pallas_gpu", "cudnn"]
    assert rates.ranked(900, 72) == ["cudnn", "pallas_gpu"]


def test_the_environment_has_a_say_where_nothing_is_asked_for(monkeypatch):
    monkeypatch.setenv("JDIT_ATTENTION", "flash")
    q = jnp.zeros((1, 1, 2, 8))
    with pytest.raises(ValueError, match="implementation is 'flash'"):
        ops.attention(q, q, q)
    assert not ops.attention(q, q, q, implementation="reference").any()


@pytest.fixture
def stand_in(monkeypatch):
    """XLA's kernel where cuDNN's would be, asked as strictly about its mask."""

    def fused(q, k, v, seen=None):
        assert seen is None or seen.shape[1:] == (1, q.shape[1], k.shape[1])
        return jax.nn.dot_product_attention(q, k, v, mask=seen, implementation="xla")

    monkeypatch.setattr(cudnn, "_fused", fused)
    with compiling_for("gpu"):
        yield


@pytest.mark.parametrize(
    "spec",
    [
        Spec(2, 4, 9, 6, 8, masked=True),
        Spec(2, 4, 9, 8, 8, groups=2, segmented=True),
        Spec(2, 6, 9, 8, 8, groups=2),
    ],
    ids=["mask", "grouped segments", "grouped"],
)
def test_around_cudnn_nothing_is_lost(spec, stand_in):
    arrays, masks = draw(spec)
    half = [x.astype(jnp.bfloat16) for x in arrays]
    results = run("cudnn", half, masks)
    for mine, truth in zip(results, without_lse(half, masks), strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), truth, atol=0.06)


def test_cudnn_in_forward_mode_and_mapped(stand_in):
    (q, k, v, bar, _), _ = draw(Spec(1, 2, 6, 5, 8))
    q, k, v, bar = (x.astype(jnp.bfloat16) for x in (q, k, v, bar))
    tangents = (jnp.cos(q), jnp.sin(k), jnp.cos(v))
    sizes = jnp.array([1, 2], jnp.bfloat16)

    def both(size):
        out, forward = jax.jvp(CUDNN, (size * q, k, v), tangents)
        reverse = jax.vjp(CUDNN, size * q, k, v)[1](bar)
        pairs = zip(reverse, tangents, strict=True)
        return out, (bar * forward).sum(), sum((g * t).sum() for g, t in pairs)

    out, forward, reverse = jax.jit(jax.vmap(both))(sizes)
    np.testing.assert_allclose(forward, reverse, rtol=0.05)
    for size, mine in zip(sizes, out, strict=True):
        truth = ops.attention(size * q, k, v, implementation="reference")
        np.testing.assert_allclose(mine, truth, atol=0.02)


def relative(mine, truth) -> float:
    mine, truth = (np.asarray(x, np.float64) for x in (mine, truth))
    there = np.isfinite(truth)
    assert (there == np.isfinite(mine)).all()
    return np.abs(mine - truth)[there].max() / np.abs(truth)[there].max()


needs_gpu = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="needs an NVIDIA GPU"
)


@pytest.mark.accelerator
@needs_gpu
@pytest.mark.parametrize(
    "name, dtype",
    [(name, jnp.bfloat16) for name in SPECS]
    + [(name, jnp.float32) for name in ("DiT-XL/2, 256 px", "packed images")]
    + [("text, 77 tokens", jnp.float16)],
)
def test_our_kernels_compiled_twice_the_same(name, dtype):
    """At the real sizes; float32 without TF32."""
    spec = SPECS[name]
    arrays, masks = draw(spec._replace(batch=2))
    cast = [x.astype(dtype) for x in arrays[:4]] + arrays[4:]
    with jax.default_matmul_precision("highest"):
        found = run_with_lse("pallas_gpu", cast, masks)
        again = run_with_lse("pallas_gpu", cast, masks)
        exact = [x.astype(jnp.float32) for x in cast]
        truths = run_with_lse("chunked", exact, masks)
    bound = 1e-5 if dtype == jnp.float32 else 0.02
    for mine, same, truth in zip(found, again, truths, strict=True):
        np.testing.assert_array_equal(mine, same)
        assert relative(mine, truth) < bound


@pytest.mark.accelerator
@needs_gpu
@pytest.mark.parametrize(
    "name, implementation",
    [(name, "cudnn") for name in SPECS]
    + [(name, None) for name in ("DiT-XL/2, 512 px", "packed images")],
)
def test_cudnn_and_what_is_chosen(name, implementation):
    """cuDNN's backward pass takes a bias, and so a mask, for even lengths only."""
    spec = SPECS[name]
    if implementation == "cudnn" and spec.masked and spec.keys % 2:
        pytest.skip("cuDNN does not take it")
    arrays, masks = draw(spec._replace(batch=2))
    half = [x.astype(jnp.bfloat16) for x in arrays[:4]]
    with jax.default_matmul_precision("highest"):
        found = run(implementation, half, masks)
        truths = run("chunked", [x.astype(jnp.float32) for x in half], masks)
    for mine, truth in zip(found, truths, strict=True):
        assert relative(mine, truth) < 0.02
