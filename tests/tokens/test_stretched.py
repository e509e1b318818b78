# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.tokens import rotary_table
from jdit.tokens.positions import interleave
from jdit.tokens.stretched import (
    FrequencyAware,
    Scaled,
    TimeAware,
    Watershed,
    stretched_table,
)

SHARE = np.arange(8) / 8
TIME = jnp.array([0.0, 0.4, 1.0])
PLAIN = 10000.0**-SHARE


def frequencies(stretch):
    return np.asarray(stretch(SHARE, 10000.0, TIME))


@pytest.mark.parametrize(
    "stretch",
    [Scaled(), FrequencyAware(1.0, 64), TimeAware(1.0), Watershed(1.0, 0.3)],
    ids=lambda stretch: type(stretch).__name__,
)
def test_at_the_trained_size_nothing_changes(stretch):
    found = frequencies(stretch)
    want = np.broadcast_to(PLAIN, found.shape)
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_the_wave_of_the_trained_length_is_interpolated_and_so_are_longer_ones():
    share = np.array([0.0, 0.1, np.log(64 / (2 * np.pi)) / np.log(10000.0), 0.5, 0.9])
    found = np.asarray(FrequencyAware(2.0, 64)(share, 10000.0, TIME))
    ratio = found / 10000.0**-share
    np.testing.assert_allclose(ratio[2:], 0.5, rtol=1e-5)
    assert ratio[0] == 1 and 0.5 < ratio[1] < 1


def test_time_leads_from_interpolation_to_a_larger_base():
    data, between, noise = frequencies(TimeAware(2.0))
    np.testing.assert_allclose(data, 20000.0**-SHARE, rtol=1e-5)
    np.testing.assert_allclose(noise[1:], PLAIN[1:] / 2, rtol=1e-5)
    assert np.all(between <= data * (1 + 1e-6)) and np.all(between >= noise * 0.999999)
    late = 72 / (71 * 0.6 + 1)  # at time 0.4, of heads of 72 channels
    ntk = (10000.0 * 2**late) ** -SHARE
    np.testing.assert_allclose(between, np.maximum(ntk, PLAIN / 2), rtol=1e-5)
    with pytest.raises(ValueError, match="width is 0"):
        TimeAware(2.0, 0)


def test_the_published_watershed():
    data, between, noise = frequencies(Watershed(2.0, 0.5))
    np.testing.assert_allclose(noise, PLAIN / 2, rtol=1e-6)
    for late in (data, between):
        np.testing.assert_allclose(late, 20000.0**-SHARE, rtol=1e-5)


def test_axes_take_turns():
    places = np.array([[0, 0], [1, 5], [7, 2]], np.float32)
    ours = stretched_table(places, 16, Scaled(), TIME)
    want = interleave(rotary_table(places, (8, 8)), 2)
    np.testing.assert_allclose(ours, want, atol=1e-6)
    assert stretched_table(places, 16, TimeAware(2.0), TIME)[0].shape == (3, 3, 8)
    with pytest.raises(ValueError, match="multiple of 4"):
        stretched_table(places, 6, Scaled(), TIME)
