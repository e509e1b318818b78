# SPDX-License-Identifier: Apache-2.0
"""The kernels through XLA's CUDA compiler for Hopper, on a machine that has no GPU."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from jdit import ops
from jdit.compile.hopper import hopper
from jdit.ops.attention.arg_specs import SPECS, Spec
from jdit.ops.platform import compiling_for

PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
here = any(importlib.util.find_spec(name) for name in PLUGINS)
needs_plugin = pytest.mark.skipif(not here, reason="JAX's CUDA plugin is not installed")


def compiled(spec: Spec, dtype) -> str:
    """Output, log-sum-exp and gradients; raises where a kernel asks for too much."""
    b, h, n, m, width = spec[:5]
    shape = partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(hopper()))
    q, k = (b, h, n, width), (b, spec.groups or h, m, width)
    masks = {}
    if spec.masked:
        masks["mask"] = shape((b, m), jnp.bool_)
    if spec.segmented:
        masks["segments"] = tuple(shape((b, x), jnp.int32) for x in (n, m))

    def both(q, k, v, masks):
        attend = partial(ops.attention_with_lse, **masks, implementation="pallas_gpu")
        (out, lse), vjp = jax.vjp(attend, q, k, v)
        return out, lse, vjp((out, lse))

    with compiling_for("gpu"):
        lowered = jax.jit(both).lower(*(shape(x, dtype) for x in (q, k, k)), masks)
    return lowered.compile({"xla_gpu_autotune_level": 0}).as_text()


@pytest.mark.slow
@needs_plugin
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_shape_compiles(spec):
    assert compiled(spec, jnp.bfloat16).count("__gpu$xla.gpu.triton") == 3


@pytest.mark.slow
@needs_plugin
@pytest.mark.parametrize("width", [64, 72, 128, 256])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_other_numbers_and_wide_heads_compile(width, dtype):
    assert "xla.gpu.triton" in compiled(Spec(1, 2, 1000, 1000, width), dtype)


@pytest.mark.skipif(here, reason="JAX's CUDA plugin is installed")
def test_says_what_is_missing():
    with pytest.raises(ImportError, match="pip install 'jdit\\[cuda\\]'"):
        hopper()
