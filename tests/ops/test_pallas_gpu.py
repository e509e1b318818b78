# SPDX-License-Identifier: Apache-2.0
"""The kernels for NVIDIA GPUs, interpreted: against float64, and transformed.

They are also lowered to Triton at the real sizes, which needs no GPU; what only a GPU
or its compiler can say is in test_gpu_compiler.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import draw, float64, run, run_with_lse, without_lse
from jax.sharding import AbstractMesh, AxisType

from jdit import ops
from jdit.ops.attention import pallas_gpu
from jdit.ops.attention.arg_specs import SPECS, Spec
from jdit.ops.attention.pallas_gpu_kernels import Blocks, parts
from jdit.ops.platform import compiling_for, spread_over

lowers = pytest.mark.skipif(
    jax.__version_info__ >= (0, 11),
    reason="lowering to Triton without a GPU needs an abstract device on newer JAX",
)

KERNEL = partial(ops.attention, implementation="pallas_gpu")
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
    found = run_with_lse("pallas_gpu", arrays, masks)
    close(found, float64(arrays, masks))
    for one, two in zip(found, run_with_lse("pallas_gpu", arrays, masks), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "spec, forward, backward",
    [
        pytest.param(
            Spec(2, 6, 40, 70, 8, masked=True, groups=2, segmented=True),
            (16, 32),
            ((32, 16), (16, 32)),
            id="all masks, shared keys, ragged",
        ),
        pytest.param(
            Spec(1, 2, 64, 96, 24), (32, 32), ((16, 32), (32, 16)), id="whole blocks"
        ),
        pytest.param(
            Spec(1, 1, 5, 3, 72), (16, 16), ((16, 16), (16, 16)), id="less than a block"
        ),
    ],
)
def test_blocks_of_any_size(spec, forward, backward, monkeypatch, request):
    """Ragged ones too: what lies behind the last token is not a number here."""
    sizes = {
        "forward": Blocks(*forward, 4, 2),
        "backward": tuple(Blocks(*pair, 4, 2) for pair in backward),
    }
    for name, blocks in sizes.items():
        kernel = partial(getattr(pallas_gpu, name), blocks=blocks)
        monkeypatch.setattr(pallas_gpu, name, kernel)
    pallas_gpu._kernels.cache_clear()
    request.addfinalizer(pallas_gpu._kernels.cache_clear)
    arrays, masks = draw(spec)
    close(run_with_lse("pallas_gpu", arrays, masks), float64(arrays, masks))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_close_and_keeps_its_dtype(dtype):
    arrays, _ = draw(Spec(1, 2, 16, 16, 64))
    half = [x.astype(dtype) for x in arrays]
    results = run("pallas_gpu", half, {})
    for mine, truth in zip(results, without_lse(half, {}), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine.astype(jnp.float32), truth, atol=0.05)


@pytest.mark.parametrize("sign", [-1, 1])
def test_no_logits_overflow(sign):
    """All of them far from zero, where keys that are not there would be."""
    (q, k, v, *bars), _ = draw(Spec(1, 1, 8, 40, 16))
    arrays = abs(q), sign * 80 * abs(k), v, *bars
    truths = float64(arrays, {})
    assert (sign * truths[1]).min() > 90  # exp(90) is no float32
    for mine, truth in zip(run_with_lse("pallas_gpu", arrays, {}), truths, strict=True):
        np.testing.assert_allclose(mine, truth, atol=1e-4 * np.abs(truth).max())


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
        truth = ops.attention(size * q, k, v, **masks)
        np.testing.assert_allclose(mine, truth, atol=1e-6)


@pytest.mark.parametrize("width", [8, 16, 64, 72, 80, 96, 112, 128, 256])
def test_parts_cover_a_head_in_powers_of_two(width):
    ends = 0
    for start, size in parts(width):
        assert start == ends and size >= 16 and size & (size - 1) == 0
        ends = start + size
    assert width <= ends < width + 16
    assert parts(72) == [(0, 64), (64, 16)] and parts(96) == [(0, 64), (64, 32)]


def lowered(spec, dtype=jnp.bfloat16, **how) -> str:
    """Output, log-sum-exp and gradients as a program for CUDA."""
    b, h, n, m, width = spec[:5]
    q, k = (b, h, n, width), (b, spec.groups or h, m, width)
    arrays = [jax.ShapeDtypeStruct(x, dtype) for x in (q, k, k)]
    masks = {}
    if spec.masked:
        masks["mask"] = jax.ShapeDtypeStruct((b, m), jnp.bool_)
    if spec.segmented:
        masks["segments"] = tuple(
            jax.ShapeDtypeStruct((b, x), jnp.int32) for x in (n, m)
        )

    def both(q, k, v, masks):
        attend = partial(ops.attention_with_lse, **masks, implementation="pallas_gpu")
        (out, lse), vjp = jax.vjp(attend, q, k, v)
        return out, lse, vjp((out, lse))

    traced = jax.jit(both).trace(*arrays, masks)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@lowers
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_shape_becomes_triton_and_is_not_padded_in_memory(spec):
    with compiling_for("gpu"):
        text = lowered(spec)
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 3
    heads, groups = spec.heads, spec.groups or spec.heads
    layout = f"{spec.batch}x{spec.queries}x{groups}x{heads // groups}x{spec.width}xbf16"
    assert f"tensor<{layout}>" in text
    assert spec.width == 128 or "x128xbf16" not in text


@lowers
@pytest.mark.parametrize("width", [64, 72, 256])
def test_float32_becomes_triton(width):
    with compiling_for("gpu"):
        assert "gpu.triton" in lowered(Spec(1, 2, 1000, 77, width), jnp.float32)


@lowers
def test_each_device_of_a_mesh_runs_the_kernels_on_its_part():
    mesh = AbstractMesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    with compiling_for("gpu", 4), spread_over(mesh, ("data",), "tensor"):
        text = lowered(Spec(4, 4, 256, 256, 72))
    calls = [line for line in text.splitlines() if "gpu.triton" in line]
    assert len(calls) == 3  # two images and two heads of four
    assert all("tensor<2x256x2x1x72xbf16>" in line for line in calls)


def test_what_the_kernels_do_not_take():
    q = jnp.zeros((1, 1, 2, 512))
    with pytest.raises(ValueError, match="it needs bfloat16, float16 or float32, and"):
        KERNEL(q, q, q)
