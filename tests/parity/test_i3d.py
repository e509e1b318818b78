# SPDX-License-Identifier: Apache-2.0
"""I3D against piergiaj/pytorch-i3d at 05783d1, whose outputs are stored.

The weights are as many as 12.7 million, so that they are not stored but made here, from
the same numbers as there, and read through the published layout.
"""

import jax
import numpy as np
import pytest
from stored import cases, near

from jdit.encoders.i3d import InceptionI3D
from jdit.evals import I3D, TensorFlowResize
from jdit.interop import i3d as published
from jdit.interop.files import write_tensors

pytestmark = pytest.mark.parity


def weights(shapes):
    """Values stay near 1 in every block."""
    made = {}
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        value = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        if name.endswith("conv3d.weight"):
            value = value * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith(("bn.weight", "running_var")):
            value = np.exp(0.2 * value)
        else:
            value = np.float32(0.2) * value
        made[name] = value
    return made


def videos():
    """Bytes of 9 frames of 200 by 224: 9, 25 and 13 are odd on the way."""
    generator = np.random.default_rng(0)
    coarse = generator.uniform(0, 255, (1, 3, 10, 14, 3))
    x = coarse.repeat(3, 1).repeat(20, 2).repeat(16, 3)
    return (x + generator.normal(0, 20, x.shape)).clip(0, 255).astype(np.uint8)


def sampled(tap):
    """The first, the middle and the last position."""
    places = zip(*([0, n // 2, n - 1] for n in tap.shape[1:4]), strict=True)
    return np.stack([tap[0][place] for place in places])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model = InceptionI3D()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    blank = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    layout = published.pack(published._LAYOUT, model, blank)
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    write_tensors(path, weights({key: x.shape for key, x in layout.items()}))
    return path


def test_every_block_is_pytorch_i3ds(path):
    case = cases("i3d")["i3d"]
    model, params = published.load_i3d(path)
    x = 2 * videos().astype(np.float32) / 255 - 1
    scores, taps = jax.device_get(jax.jit(model.apply)(params, x))
    wanted = {key.removeprefix("taps/") for key in case if key.startswith("taps/")}
    assert set(taps) == wanted
    for name in taps:
        want = case[f"taps/{name}"]
        assert want.std() > 0.05, f"{name} says too little"
        near(name, sampled(taps[name]), want, 1e-4)
    assert case["logits"].std() > 0.05
    near("logits", scores, case["logits"], 1e-4)


def test_its_features_are_those_of_resized_frames(path):
    """Also as floats; a size of its own, to which 200 by 224 is no stranger."""
    x, net = videos()[..., :200, :], I3D(str(path), TensorFlowResize(200))
    model, params = published.load_i3d(path)
    whole = 2 * x.astype(np.float32) / 255 - 1
    want = jax.jit(lambda p, x: model.apply(p, x)[0])(params, whole)
    got = net(x.astype(np.float32) / np.float32(127.5) - 1)
    np.testing.assert_allclose(got, want, atol=1e-4)
