# SPDX-License-Identifier: Apache-2.0
"""The two resizes of scores, in closed form."""

import numpy as np
import pytest

from jdit.evals import CleanResize, PillowResize, TensorFlowResize
from jdit.evals.fid_features import as_bytes

RESIZES = [TensorFlowResize(), CleanResize(), PillowResize(299)]


@pytest.fixture(params=RESIZES, ids=lambda x: type(x).__name__)
def resize(request):
    return request.param


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_an_image_of_the_size_is_left_alone(resize):
    x = noise(2, 299, 299, 3)
    np.testing.assert_array_equal(resize(x), x)


def test_a_plain_image_stays_plain(resize):
    x = np.broadcast_to(np.uint8([0, 100, 255]), (1, 40, 30, 3))
    y = resize(x)
    assert y.shape == (1, 299, 299, 3) and y.dtype == np.float32
    np.testing.assert_allclose(y[0, ::50, ::50], np.broadcast_to(x[0, 0, 0], (6, 6, 3)))


def test_images_and_channels_are_apart_and_bounded(resize):
    x = noise(3, 20, 50, 3)
    y = resize(x)
    np.testing.assert_array_equal(resize(x[1:2]), y[1:2])
    np.testing.assert_array_equal(resize(x[..., ::-1]), y[..., ::-1])
    assert y.min() >= 0 and y.max() <= 255


def test_tensorflows_reads_a_ramp_at_scaled_places():
    """Row i at `i source / target`, held at the last: no half pixel anywhere."""
    x = np.zeros((1, 50, 60, 3), np.uint8)
    x[..., 0] = 5 * np.arange(50)[:, None]
    x[..., 1] = 4 * np.arange(60)
    y = TensorFlowResize(100)(x)[0]
    rows = 5 * np.minimum(np.arange(100) * 0.5, 49)
    columns = 4 * np.minimum(np.arange(100) * 0.6, 59)
    np.testing.assert_allclose(y[..., 0], np.broadcast_to(rows[:, None], (100, 100)))
    np.testing.assert_allclose(
        y[..., 1], np.broadcast_to(columns, (100, 100)), rtol=1e-5
    )


def test_only_pillows_are_antialiased():
    """Stripes one pixel wide, shrunk to less than half."""
    x = np.zeros((1, 640, 640, 3), np.uint8)
    x[:, ::2] = 255
    assert CleanResize()(x).std() < 3 < 60 < TensorFlowResize()(x).std()
    assert PillowResize(299)(x).std() < 3


def test_pillows_are_the_same_but_for_rounding():
    x = noise(1, 64, 48, 3) // 2 + 64  # it would be cut to bytes between the axes too
    rounded = PillowResize(299)(x)
    np.testing.assert_array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded - CleanResize()(x)).max() <= 2


def test_the_middle_square_is_cut_before_it_is_resized():
    x = noise(2, 20, 31, 3)
    square = PillowResize(16)(x[:, :, 5:25])
    np.testing.assert_array_equal(PillowResize(16, crop=True)(x), square)
    turned = np.swapaxes(x, 1, 2)
    cut = PillowResize(16, crop=True)(turned)
    np.testing.assert_array_equal(cut, PillowResize(16)(turned[:, 5:25]))


def test_bytes_survive_the_way_over_floats():
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = x.astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(as_bytes(floats), np.repeat(x, 3, -1))
