# SPDX-License-Identifier: Apache-2.0
"""Parameters are placed as they are read: in their dtype, on their devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny_dit import MODEL, awake

from jdit.interop import save_dit
from jdit.interop.dit import DIT, DIT_CLOCK
from jdit.interop.files import open_tensors
from jdit.interop.layout import Placement, flatten, unpack


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dit.safetensors"
    save_dit(path, replace(MODEL, clock=DIT_CLOCK), awake())
    return open_tensors(path)


def test_weights_are_read_in_the_dtype_asked_for(source):
    low = unpack(DIT, MODEL, source, Placement("bfloat16"))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), awake())
    jax.tree.map(np.testing.assert_array_equal, low, rounded)
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype("bfloat16")}


def test_weights_go_to_the_sharding_of_their_path(source):
    mesh = Mesh(np.array(jax.devices()), ("model",))
    asked = {}

    def sharding(path, shape):
        spec = PartitionSpec(*[None] * (len(shape) - 1), "model")
        asked[path] = shape
        return NamedSharding(mesh, spec)

    placed = flatten(unpack(DIT, MODEL, source, Placement(sharding=sharding)))
    want = flatten(awake())
    assert asked == {path: x.shape for path, x in want.items()}
    for path, x in placed.items():
        assert x.sharding.spec[-1] == "model"
        np.testing.assert_array_equal(x, want[path])
