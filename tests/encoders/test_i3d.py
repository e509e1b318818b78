# SPDX-License-Identifier: Apache-2.0
"""I3D: its sizes, its file, and what it refuses. No program is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import tree_leaves_with_path

from jdit.encoders.i3d import InceptionI3D
from jdit.evals import I3D
from jdit.interop import i3d as published

MODEL = InceptionI3D()


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(MODEL.init, jax.random.key(0))


def test_the_network_has_the_published_size(shapes):
    leaves = tree_leaves_with_path(shapes)
    fixed = ("mean", "variance")  # of batch norms, which are no trained parameters
    trained = sum(x.size for path, x in leaves if path[-1].key not in fixed)
    assert trained == 12_697_264  # pytorch-i3d's
    assert len(list(MODEL.convolutions())) == 57
    assert len(leaves) == 57 * 5 + 2


def test_blocks_have_the_published_shapes(shapes):
    x = jax.ShapeDtypeStruct((2, 16, 224, 224, 3), jnp.float32)
    scores, taps = jax.eval_shape(MODEL.apply, shapes, x)
    assert scores.shape == (2, 400)
    shapes = {name: tap.shape[1:] for name, tap in taps.items()}
    assert shapes["Conv3d_2c_3x3"] == (8, 56, 56, 192)
    assert shapes["Mixed_3c"] == (8, 28, 28, 480)
    assert shapes["Mixed_4f"] == (4, 14, 14, 832)
    assert shapes["Mixed_5c"] == (2, 7, 7, 1024)


def test_each_tensor_of_the_file_is_read_once(shapes):
    keys = [key for rule in published._LAYOUT.rules for key in rule.theirs]
    assert len(keys) == len(set(keys)) == len(jax.tree.leaves(shapes))
    known = {"Conv3d_1a_7x7.conv3d.weight", "Mixed_5c.b3b.bn.running_var"}
    assert known < set(keys)


def test_mistakes_are_one_sentence(unchecked, tmp_path):
    with pytest.raises(ValueError, match="at least 9 frames of 193"):
        MODEL.apply({}, jnp.zeros((1, 8, 224, 224, 3)))
    with pytest.raises(ValueError, match="at least 9 frames of 193"):
        MODEL.apply({}, jnp.zeros((1, 16, 224, 192, 3)))
    with pytest.raises(ValueError, match="give --weights FILE"):
        I3D().load()
    net = I3D(str(tmp_path / "none.safetensors"))
    with pytest.raises(FileNotFoundError, match="is not a file"):
        net.load()
    with pytest.raises(ValueError, match="videos have shape"):
        net(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="NaN"):
        net(np.full((1, 9, 8, 8, 3), np.nan, np.float32))
