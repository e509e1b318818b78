# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 as a feature function, with weights of no meaning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jdit.evals import EfficientNetLite0
from jdit.evals.convert import fold
from jdit.evals.efficientnet import Network
from jdit.interop.files import Source, write_tensors

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    x = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(Network().init, jax.random.key(0), x)["params"]
    generator = np.random.default_rng(1)

    def weight(shape):
        if len(shape) == 1:  # small, or the biases alone would decide the features
            return 0.1 * generator.normal(size=shape)
        return generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))

    flat = flatten_dict(shapes, sep=".")
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    write_tensors(path, {name: weight(leaf.shape) for name, leaf in flat.items()})
    return EfficientNetLite0(str(path), resolution=32)


def test_features_of_each_image_are_its_own(features):
    both = np.asarray(features(IMAGES))
    assert both.shape == (2, 1280) and both.dtype == np.float32
    swapped = np.asarray(features(IMAGES[::-1]))
    np.testing.assert_allclose(swapped[::-1], both, atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-3
    probabilities = features.probabilities(IMAGES)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_grey_images_are_repeated(features):
    grey = IMAGES[..., :1]
    colour = np.repeat(grey, 3, -1)
    np.testing.assert_allclose(features(grey), features(colour), atol=1e-5)


def test_a_plain_image_of_another_size_is_the_same_image(features):
    """Bicubic weights sum to 1, at the edges too."""
    small, large = np.full((2, 20, 24, 3), 0.3), np.full((2, 32, 32, 3), 0.3)
    np.testing.assert_allclose(features(small), features(large), atol=1e-4)


def test_the_network_has_the_published_size():
    x = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(Network().init, jax.random.key(0), x)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # 4,652,008 published, of which a scale is folded into each convolution's kernel
    scales = sum(layer["bias"].size for k, layer in shapes.items() if k != "classes")
    assert count + scales == 4_652_008


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m jdit.evals.convert"):
        EfficientNetLite0(str(tmp_path / "none.safetensors"))(IMAGES)
    with pytest.raises(ValueError, match="2 channels, but 1 or 3"):
        EfficientNetLite0()(IMAGES[..., :2])
    with pytest.raises(ValueError, match="resolution is 8"):
        EfficientNetLite0(resolution=8)
    with pytest.raises(ValueError, match="foreign lacks '_conv_stem.weight'"):
        fold(Source("foreign", {"x": (1,)}, lambda key: np.zeros(1)))
