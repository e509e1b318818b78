# SPDX-License-Identifier: Apache-2.0
"""FID's InceptionV3: its sizes, its file, and what it refuses. No program is run."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import tree_leaves_with_path

from jdit.encoders.inception import InceptionV3, max_pool, mean_pool
from jdit.evals import InceptionPool, fid_features
from jdit.interop import inception as published
from jdit.interop.download import download

MODEL = InceptionV3()


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(MODEL.init, jax.random.key(0))


def test_the_network_has_the_published_size(shapes):
    leaves = tree_leaves_with_path(shapes)
    fixed = ("mean", "variance")  # of batch norms, which are no trained parameters
    trained = sum(x.size for path, x in leaves if path[-1].key not in fixed)
    # torchvision's 23,834,568 without its auxiliary head, for 8 more classes
    assert trained == 23_834_568 + 8 * 2049
    assert len(list(MODEL.convolutions())) == 94
    assert len(leaves) == 94 * 5 + 2


def test_features_have_the_published_shapes(shapes):
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    features, taps = jax.eval_shape(MODEL.apply, shapes, x)
    assert features.pool.shape == (2, 2048)
    assert features.spatial.shape == (2, 17 * 17 * 7)
    assert features.logits.shape == (2, 1008)
    sides = {name: tap.shape[1:] for name, tap in taps.items() if "Mixed" in name}
    assert sides["Mixed_5b"] == (35, 35, 256) and sides["Mixed_5d"] == (35, 35, 288)
    assert sides["Mixed_6a"] == sides["Mixed_6e"] == (17, 17, 768)
    assert sides["Mixed_7a"] == (8, 8, 1280) and sides["Mixed_7c"] == (8, 8, 2048)


def test_pools_do_not_see_the_padding():
    x = jnp.full((1, 4, 5, 2), -3.0)
    np.testing.assert_array_equal(mean_pool(x), x)
    np.testing.assert_array_equal(max_pool(x), x)
    corner = jnp.zeros((1, 4, 5, 1)).at[0, 0, 0].set(8)
    mean = mean_pool(corner)[0, :, :, 0]  # of 4, 6 and 9 pixels that are there
    assert mean[0, 0] == 2 and mean[1, 1] == pytest.approx(8 / 9)
    assert mean[0, 1] == mean[1, 0] == pytest.approx(8 / 6)


def test_each_tensor_of_the_file_is_read_once(shapes):
    keys = [key for rule in published._LAYOUT.rules for key in rule.theirs]
    assert len(keys) == len(set(keys)) == len(jax.tree.leaves(shapes))
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch3x3_2a.bn.running_var"} < set(
        keys
    )
    assert published.NAME.endswith(f"-{published.SHA256[:8]}.pth")


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="would not compare"):
        published.load_inception(path)
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        published.load_inception(tmp_path / "none.safetensors")


def test_the_cache_prefers_what_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pth = tmp_path / "jdit" / published.NAME
    assert fid_features._cached() == pth
    pth.parent.mkdir()
    pth.with_suffix(".safetensors").write_bytes(b"")
    assert fid_features._cached() == pth.with_suffix(".safetensors")


def test_a_download_is_whole_and_checked_or_not_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(b"x" * 3_000_000)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert download(source.as_uri(), target, digest).read_bytes()[-1:] == b"x"
    target.unlink()
    with pytest.raises(ValueError, match="nothing was kept"):
        download(source.as_uri(), target, "0" * 64)
    with pytest.raises(FileNotFoundError, match="by hand"):
        download((tmp_path / "none").as_uri(), target, digest)
    assert not list(target.parent.iterdir())


def test_bad_images_are_refused(unchecked):
    function = InceptionPool("none.safetensors")
    good = np.zeros((2, 8, 8, 3), np.float32)
    cases = [
        (good[0], "shape"),
        (good[..., :2], "one channel"),
        (good.astype(np.int32), "int32"),
        (good + np.nan, "NaN"),
        (good + 255, "must be in"),
    ]
    for images, message in cases:
        with pytest.raises(ValueError, match=message):
            function(images)
    with pytest.raises(ValueError, match="at least 75"):
        MODEL.apply({}, jnp.zeros((1, 64, 64, 3)))
