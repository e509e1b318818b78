# SPDX-License-Identifier: Apache-2.0
"""DINOv2 and CLIP as feature functions, from folders of small ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import start

from jdit.encoders import VisionTransformer, save_encoder
from jdit.evals import CLIP, DINOv2, PillowResize, Statistics, cmmd
from jdit.evals.devices import over_devices
from jdit.evals.dino_features import OFFSET, published_positions
from jdit.evals.meter import Measured
from jdit.evals.nets import feature_net, net_fields

DINO = VisionTransformer(
    size=16, patch=4, dim=16, depth=1, heads=2, hidden=64, layer_scale=True
)
TOWER = replace(
    DINO,
    layer_scale=False,
    patch_bias=False,
    entry_norm=True,
    readout="class",
    projection=6,
    eps=1e-5,
)


def images(count=3, height=9, width=13):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    for name, encoder in (("dino", DINO), ("clip", TOWER)):
        save_encoder(root / name, encoder, start(encoder))
    return root


def test_dinov2_reads_pillows_pixels_at_published_positions(folders):
    net = DINOv2(str(folders / "dino"), PillowResize(8))
    x = images()
    found = np.asarray(net(x))
    assert found.shape == (3, 16) and found.dtype == np.float32
    encoder, params = published_positions(DINO, net.params, 8)
    pixels = jnp.asarray(PillowResize(8)(x) / np.float32(127.5) - 1)
    np.testing.assert_allclose(found, encoder.apply(params, pixels).pooled, atol=1e-5)
    floats = x.astype(np.float32) / np.float32(127.5) - 1
    np.testing.assert_array_equal(net(floats), found)


def test_published_positions_are_scaled_too_far():
    """On a ramp: place i at (i + 1/2) n / (m + 0.1) - 1/2, away from the borders."""
    encoder = replace(DINO, size=80)
    grid = 20
    rows = np.repeat(np.arange(grid, dtype=np.float32), grid)[:, None]
    table = np.concatenate([[[7.0]], rows]) * np.ones((1, 16), np.float32)
    params = {"position": {"table": jnp.asarray(table, jnp.float32)}}
    small, moved = published_positions(encoder, params, 48)
    assert small.size == 48 and moved["position"]["table"].shape == (145, 16)
    np.testing.assert_array_equal(moved["position"]["table"][0], 7)
    places = np.asarray(moved["position"]["table"][1:, 0]).reshape(12, 12)
    want = (np.arange(12) + 0.5) * grid / (12 + OFFSET) - 0.5
    assert np.ptp(places, 1).max() < 1e-5  # the ramp is along rows
    np.testing.assert_allclose(places[2:10, 0], want[2:10], atol=0.1)
    assert abs(places[9, 0] - want[9]) < abs(want[9] - (9.5 * grid / 12 - 0.5))
    same = replace(encoder, registers=4)
    assert published_positions(same, params, 48)[1] is params
    assert published_positions(encoder, params, 80)[1] is params


def test_clip_has_unit_features_of_the_middle_square(folders):
    net = CLIP(str(folders / "clip"))
    x = images()
    found = np.asarray(net(x))
    assert found.shape == (3, 6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(net(x[:, :, 2:11]), found, atol=1e-6)
    pixels = jnp.asarray(PillowResize(16, crop=True)(x) / np.float32(127.5) - 1)
    raw = np.asarray(TOWER.apply(net.params, pixels).pooled)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(found, unit, atol=1e-5)


def test_scores_are_named_after_the_features(folders):
    sets = [np.random.default_rng(i).normal(i, 1, (9, 6)) for i in range(2)]
    real, fake = (Measured(Statistics.of(x), None, x) for x in sets)
    assert set(DINOv2().scores(fake, real)) == {"fd_dinov2"}
    assert CLIP().scores(fake, real) == {"cmmd": cmmd(*sets)}
    assert CLIP().scores(fake, replace(real, features=None)) == {}


def test_nets_are_found_by_name_and_say_what_they_are(folders):
    path = str(folders / "dino")
    fields = net_fields(feature_net("DINOv2", path, "PillowResize:8"))
    assert fields["features"] == "DINOv2"
    assert fields["resize"] == "PillowResize(size=8, crop=False)"
    assert len(fields["features_hash"]) == 12
    fields = net_fields(feature_net("CLIP", str(folders / "clip")))
    assert fields["resize"] == "PillowResize(size=16, crop=True)"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: feature_net("DINOv2"), "give --weights FOLDER"),
        (lambda root: feature_net("CLIP"), "openai/clip-vit-large-patch14-336"),
        (lambda root: feature_net("DINOv2", str(root / "clip")), "is no DINOv2"),
        (lambda root: feature_net("CLIP", str(root / "dino")), "no CLIP"),
        (lambda root: feature_net("DINOv2", str(root / "none")), "is not there"),
        (
            lambda root: feature_net("DINOv2", str(root / "dino"), "PillowResize:x"),
            "with a size such as :224",
        ),
        (
            lambda root: DINOv2(str(root / "dino"))(np.full((1, 8, 8, 3), np.nan)),
            "NaN",
        ),
        (lambda root: CLIP(str(root / "clip"))(np.zeros((1, 8, 8, 3)) + 2), "must be"),
    ],
    ids=["path", "clip path", "clip", "dino", "folder", "size", "nan", "range"],
)
def test_mistakes_are_one_sentence(folders, unchecked, make, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make(folders)


def test_a_net_over_one_device_is_the_net():
    run = over_devices(lambda params, x: params * x, 3.0, jax.devices()[:1])
    np.testing.assert_array_equal(run(np.arange(5.0)), 3 * np.arange(5.0))
