# SPDX-License-Identifier: Apache-2.0
"""FID's InceptionV3 and its resize against torch-fidelity's and pytorch-fid's."""

import jax
import numpy as np
import pytest
from einops import rearrange
from stored import last

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

import without_torchvision  # noqa: E402

from jdit.encoders.inception import InceptionV3  # noqa: E402
from jdit.evals import CleanResize, InceptionPool, TensorFlowResize  # noqa: E402
from jdit.interop import inception as published  # noqa: E402

SIZES = [(32, 32), (64, 64), (256, 256), (512, 512), (80, 48)]


def images(size, seed=0, count=1):
    """Smooth and rough, the extremes 0 and 255 among them."""
    generator = np.random.default_rng(seed)
    smooth = generator.uniform(0, 1, (count, 4, 4, 3)).repeat(-(-size[0] // 4), 1)
    smooth = smooth.repeat(-(-size[1] // 4), 2)[:, : size[0], : size[1]]
    x = 340 * smooth - 60 + generator.normal(0, 30, smooth.shape)
    return x.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def blocks():
    return without_torchvision.torch_fidelity("feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def state():
    """Random weights in the published layout; values stay near 1 in every block."""
    model = InceptionV3()
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def leaf(path, like):
        name = path[-1].key
        value = generator.standard_normal(like.shape, dtype=np.float32)
        if name == "kernel":
            return value * np.float32(np.sqrt(2 / np.prod(like.shape[:-1])))
        if name in ("scale", "variance"):
            return np.exp(0.2 * value)
        return 0.2 * value

    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    arrays = published.pack(published._LAYOUT, model, params)
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    count = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}  # is left out
    torch.save(state | count, path, _use_new_zipfile_serialization=False)  # of 2018
    return str(path)


@pytest.fixture(scope="module")
def theirs(blocks, path):
    names = ["2048", "logits_unbiased", "logits"]
    return blocks.FeatureExtractorInceptionV3("inception", names, path)


@pytest.fixture(scope="module")
def inputs():
    """One image of each of 32, 64, 256 and 512 pixels."""
    return [images(size, seed) for seed, size in enumerate(SIZES[:4])]


@pytest.fixture(scope="module")
def pixels(inputs):
    return np.concatenate([TensorFlowResize()(part) for part in inputs])


@pytest.fixture(scope="module")
def loaded(path):
    return published.load_inception(path, None)


@pytest.fixture(scope="module")
def ours(loaded, pixels):
    model, params = loaded
    return jax.device_get(jax.jit(model.apply)(params, (pixels - 128) / 128))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_resize_is_tensorflows_to_the_bit(blocks, size):
    x = images(size, count=2)
    resize = blocks.interpolate_bilinear_2d_like_tensorflow1x
    planes = torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float32))
    want = last(resize(planes, size=(299, 299), align_corners=False).numpy())
    np.testing.assert_array_equal(TensorFlowResize()(x), want)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_clean_resize_is_pillows(size):
    from PIL import Image

    x = images(size)[0]
    want = [
        np.asarray(
            Image.fromarray(x[..., c].astype(np.float32)).resize(
                (299, 299), resample=Image.BICUBIC
            )
        ).clip(0, 255)
        for c in range(3)
    ]
    np.testing.assert_array_equal(CleanResize()(x[None])[0], np.stack(want, -1))


def test_every_block_is_torch_fidelitys_from_every_size(theirs, path, inputs, ours):
    """Bytes through the resize, to the last feature."""
    seen = {}

    def watch(name, module):
        keep = lambda module, _, out: seen.setdefault(name, []).append(out)  # noqa: E731
        return module.register_forward_hook(keep)

    hooks = [watch(name, module) for name, module in theirs.named_children()]
    hooks.append(watch("spatial", theirs.Mixed_6d.branch1x1))
    with torch.no_grad():
        outputs = [theirs(torch.from_numpy(np.moveaxis(x, -1, 1))) for x in inputs]
    for hook in hooks:
        hook.remove()
    pool, unbiased, _ = (torch.cat(x).numpy() for x in zip(*outputs, strict=True))
    features, taps = ours
    taps = taps | {"MaxPool_1": taps["pool_0"], "MaxPool_2": taps["pool_1"]}
    taps = {name: x for name, x in taps.items() if not name.startswith("pool")}
    assert set(taps) == set(seen) - {"AvgPool", "fc", "spatial"}
    errors = {}
    for name, mine in taps.items():
        want = last(torch.cat(seen[name]).numpy())
        assert want.std() > 0.05, f"{name} says too little"
        errors[name] = float(np.abs(mine - want).max())
    want = rearrange(torch.cat(seen["spatial"])[:, :7].numpy(), "b c y x -> b (y x c)")
    assert features.spatial.shape == want.shape == (4, 2023)
    errors["spatial"] = float(np.abs(features.spatial - want).max())
    errors["pool"] = float(np.abs(features.pool - pool).max())
    errors["logits"] = float(np.abs(features.logits - unbiased).max())
    assert max(errors.values()) < 1e-4, errors

    function = InceptionPool(path, sha256=None)  # the same, as a feature function
    mine = np.asarray(function(inputs[0]))
    np.testing.assert_allclose(mine, pool[:1], atol=1e-4)
    as_float = inputs[0].astype(np.float32) / np.float32(127.5) - 1
    np.testing.assert_array_equal(function(as_float), mine)


def test_every_block_is_pytorch_fids(state, blocks, path, pixels, ours):
    def network():
        return blocks.FeatureExtractorInceptionV3("inception", ["2048"], path)

    with without_torchvision.pytorch_fid(state, network) as module:
        reference = module.InceptionV3([0, 1, 2, 3], False, False).eval()
    with torch.no_grad():
        x = (pixels[1:2] - 128) / 128
        wanted = reference(torch.from_numpy(np.moveaxis(x, -1, 1)))
    features, taps = ours
    mine = [taps[name] for name in ("pool_0", "pool_1", "Mixed_6e")]
    mine.append(features.pool[:, None, None])
    for own, want in zip(mine, wanted, strict=True):
        assert np.abs(own[1:2] - last(want.numpy())).max() < 1e-4


def test_the_published_layout_comes_back_to_the_bit(state, loaded, tmp_path):
    published.save_inception(tmp_path / "again.safetensors", *loaded)
    _, again = published.load_inception(tmp_path / "again.safetensors")
    arrays = published.pack(published._LAYOUT, loaded[0], again)
    assert arrays.keys() == state.keys()
    assert all(np.array_equal(state[key], value) for key, value in arrays.items())
