# SPDX-License-Identifier: Apache-2.0
"""The kernels through the TPU's own compiler, on a machine that has no TPU."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jdit import ops
from jdit.compile import topology
from jdit.compile.hlo import parse
from jdit.ops.attention.arg_specs import SPECS, Spec
from jdit.ops.platform import compiling_for, spread_over

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
    ),
]
SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1"}


@pytest.fixture(autouse=True, scope="module")
def uncached():
    """Programs for devices that are not here can be kept on disk, but not read."""
    for kept in (False, True):
        jax.config.update("jax_enable_compilation_cache", kept)
        reset_cache()  # it asks once in a process
        if not kept:
            yield


def lower(spec: Spec, dtype, place, implementation=None):
    """Output, log-sum-exp and gradients, lowered, and the arguments' shapes."""
    b, h, n, m, width = spec[:5]
    shape = partial(jax.ShapeDtypeStruct, sharding=place)
    q, k = (b, h, n, width), (b, spec.groups or h, m, width)
    arrays = [shape(x, dtype) for x in (q, k, k, q)]
    masks = {}
    if spec.masked:
        masks["mask"] = shape((b, m), jnp.bool_)
    if spec.segmented:
        masks["segments"] = tuple(shape((b, x), jnp.int32) for x in (n, m))

    def both(q, k, v, bar, masks):
        attend = partial(ops.attention_with_lse, **masks, implementation=implementation)
        (out, lse), vjp = jax.vjp(attend, q, k, v)
        return out, lse, vjp((bar, lse))

    return jax.jit(both).lower(*arrays, masks)


@pytest.mark.parametrize("kind", SLICES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_shape_compiles(kind, spec):
    device = topology(SLICES[kind]).devices[0]
    with compiling_for("tpu"):
        lowered = lower(spec, jnp.bfloat16, SingleDeviceSharding(device))
    text = lowered.compile().as_text()
    assert "attention_forward" in text and "attention_backward" in text
    if not spec.queries % 128 and not spec.keys % 128:
        program = parse(text)
        heads = list(_heads(program[program.entry], spec.width))
        assert len(heads) == 4 + 8  # q, k, v and out; these, d_out and three gradients
        assert all(x.padded == x.bytes for x in heads)


def _heads(around, width):
    """The arrays of heads that kernels read and write in memory."""
    for kernel in (x for x in around if x.op == "custom-call"):
        read = (shape for name in kernel.operands for shape in around.body[name].result)
        yield from (x for x in (*read, *kernel.result) if x.dims[-2:-1] == (width,))


@pytest.mark.parametrize("width", [64, 128, 256])
def test_float32_and_long_sequences_compile(width):
    """Keys in several steps: 10,000 tokens."""
    device = topology("v5e:2x2").devices[0]
    spec = Spec(1, 2, 10_000, 10_000, width)
    with compiling_for("tpu"):
        lower(spec, jnp.float32, SingleDeviceSharding(device)).compile()


def test_each_chip_of_a_mesh_runs_the_kernels_on_its_part():
    devices = np.array(topology("v5e:2x2").devices).reshape(2, 2)
    mesh = Mesh(devices, ("data", "tensor"))
    place = NamedSharding(mesh, PartitionSpec("data"))
    spec = Spec(4, 4, 256, 256, 72)
    with compiling_for("tpu", 4), spread_over(mesh, ("data",), "tensor"):
        text = lower(spec, jnp.bfloat16, place).compile().as_text()
    assert "attention_forward" in text
    assert "bf16[2,2,1,72,256]" in text  # two images and two heads of four a chip
