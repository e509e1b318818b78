# SPDX-License-Identifier: Apache-2.0
"""The Huber loss on wavelets against its limits and closed forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.objectives import Denoising, HuberWavelet, LogitNormal, haar, pseudo_huber
from jdit.processes import Gaussian

FLOW = Gaussian()
DATA = jax.random.normal(jax.random.key(5), (8, 4, 6, 3))
TIMES = LogitNormal()
KEY = jax.random.key(1)


class Output(NamedTuple):
    prediction: jax.Array


def network(x_t, time, conditions):
    return Output(jnp.tanh(x_t) + time[:, None, None, None])


def drawn():
    """The times that an objective draws from the key."""
    return TIMES(jax.random.split(KEY)[0], (len(DATA),))


def test_wavelets_keep_energy_and_halve_the_grid():
    bands = haar(DATA)
    assert bands.shape == (8, 2, 3, 12)
    axes = (1, 2, 3)
    np.testing.assert_allclose((bands**2).sum(axes), (DATA**2).sum(axes), rtol=1e-5)
    line = haar(jnp.array([[1.0, 3.0, 5.0, 4.0]])[..., None])
    np.testing.assert_allclose(line[0] * 2**0.5, [[4, -2], [9, 1]], rtol=1e-6)


@pytest.mark.parametrize("band", range(4))
def test_each_band_sees_its_own_pattern(band):
    row, column = jnp.meshgrid(jnp.arange(4), jnp.arange(6), indexing="ij")
    power = row * (band % 2) + column * (band // 2)
    image = ((-1.0) ** power)[None, ..., None]
    bands = np.array(haar(image))
    np.testing.assert_allclose(bands[..., band], 2, rtol=1e-6)
    np.testing.assert_allclose(np.delete(bands, band, -1), 0, atol=1e-6)


def test_a_large_threshold_is_half_the_weighted_error_of_the_data():
    objective = HuberWavelet(TIMES, thresholds=(1e4, 1e4))
    process = Gaussian(target="x_0")
    losses, metrics = objective(KEY, network, {}, process, DATA, {})
    plain, known = Denoising(TIMES)(KEY, network, {}, process, DATA, {})
    weight, _ = objective.at(process, drawn())
    np.testing.assert_allclose(losses, weight * plain / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["error"], known["error"], rtol=1e-5)


def test_a_large_threshold_without_beta_is_flow_matching_at_another_weight():
    objective = HuberWavelet(TIMES, thresholds=(1e4, 1e4), beta=0.0)
    losses, _ = objective(KEY, network, {}, FLOW, DATA, {})
    plain, _ = Denoising(TIMES)(KEY, network, {}, FLOW, DATA, {})
    t = drawn()
    np.testing.assert_allclose(losses, t**3 / (2 * (1 - t)) * plain, rtol=1e-4)


def test_a_small_threshold_is_the_absolute_error_of_wavelets():
    objective = HuberWavelet(TIMES, thresholds=(1e-5, 1e-5))
    process = Gaussian(target="x_0")
    losses, _ = objective(KEY, network, {}, process, DATA, {})
    time, noise = drawn(), jax.random.split(KEY)[1]
    x_t, _ = process.corrupt(noise, DATA, time)
    error = jnp.abs(haar(network(x_t, time, {}).prediction - DATA)).mean((1, 2, 3))
    weight, _ = objective.at(process, time)
    np.testing.assert_allclose(losses, 1e-5 * weight * error, rtol=1e-3)


def test_the_penalty_is_written_without_loss_of_digits():
    r = np.linspace(-3, 3, 7)
    for c in (0.2, 1.0, 1e3):
        want = c**2 * (np.sqrt(1 + (r / c) ** 2) - 1)
        found = pseudo_huber(jnp.array(r), jnp.array(c))
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-9)


def test_the_threshold_grows_with_the_signal_and_the_weight_follows_min_snr():
    time = jnp.array([1.0, 0.9, 0.5, 0.4, 1 / (1 + 5**0.5), 0.1, 1e-3])
    snr = np.square((1 - np.array(time, np.float64)) / np.array(time, np.float64))
    low = np.minimum(snr, 5)
    for alpha, beta in ((1.0, 0.5), (0.5, 1.0), (0.0, 0.5)):
        weight, threshold = HuberWavelet(alpha=alpha, beta=beta).at(FLOW, time)
        np.testing.assert_allclose(threshold, 0.2 + 0.8 * (low / 5) ** alpha, rtol=1e-5)
        inner = slice(1, None)  # at time 1 alpha is 0
        want = low[inner] ** beta / np.sqrt(snr[inner])
        np.testing.assert_allclose(weight[inner], want, rtol=1e-4)
        assert np.isfinite(weight).all()
    weight, _ = HuberWavelet().at(FLOW, time)
    np.testing.assert_allclose(weight[:5], 1, rtol=1e-5)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(thresholds=(0.0, 1.0)), "thresholds is"),
        (dict(thresholds=(1.0, 0.2)), "0 < least <= most"),
        (dict(alpha=1.5), "alpha is 1.5"),
        (dict(beta=-0.1), "beta is -0.1"),
        (dict(gamma=0.0), "gamma is 0.0"),
    ],
    ids=["zero", "order", "alpha", "beta", "gamma"],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        HuberWavelet(**settings)


def test_an_odd_axis_is_named():
    with pytest.raises(ValueError, match=r"grid \(4, 5\), but wavelets need even"):
        haar(jnp.zeros((1, 4, 5, 2)))
