# SPDX-License-Identifier: Apache-2.0
"""Paths against their closed forms in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdit.processes import (
    EDM,
    GVP,
    Coefficients,
    DDPMCosine,
    DDPMLinear,
    DDPMScaledLinear,
    Linear,
    VPCosine,
    VPLinear,
    log_snr,
    time_from_log_snr,
    time_from_sigma,
    transition,
)

CHAINS = [DDPMLinear(), DDPMScaledLinear(), DDPMCosine(), DDPMLinear(steps=250)]
TIMES = np.array([1e-6, 1e-4, 0.01, 0.3, 0.77, 0.999])


@pytest.mark.parametrize("path", CHAINS, ids=repr)
def test_alpha_bar_is_the_running_product_at_the_indices(path):
    bar = np.cumprod(1 - path.betas)
    at = path(path.time(jnp.arange(path.steps)))
    np.testing.assert_allclose(at.alpha, np.sqrt(bar), rtol=5e-7)
    np.testing.assert_allclose(at.sigma, np.sqrt(1 - bar), rtol=5e-7)


@pytest.mark.parametrize("path", CHAINS, ids=repr)
@pytest.mark.parametrize("stride", [1, 4])
def test_respaced_steps_have_the_exact_rate(path, stride):
    index = np.arange(stride - 1, path.steps, stride)
    bar = np.cumprod(1 - path.betas)[index]
    before = np.append(1, bar[:-1])
    earlier = jnp.asarray(np.append(-1, index[:-1]))
    step = transition(path, path.time(index), path.time(earlier))
    np.testing.assert_allclose(step.variance, 1 - bar / before, rtol=5e-6)
    np.testing.assert_allclose(step.ratio, np.sqrt(bar / before), rtol=1e-6)


def test_small_times_keep_their_digits():
    time = jnp.asarray(TIMES, jnp.float32)
    time64 = np.asarray(time, np.float64)
    log = -0.1 * time64 - 19.9 * time64**2 / 2
    at = VPLinear()(time)
    np.testing.assert_allclose(at.alpha, np.exp(log / 2), rtol=1e-6)
    np.testing.assert_allclose(at.sigma, np.sqrt(-np.expm1(log)), rtol=1e-6)
    angle = (time64 + 0.008) / 1.008 * np.pi / 2
    bar = np.cos(angle) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    at = VPCosine()(time)
    np.testing.assert_allclose(at.alpha, np.sqrt(bar), rtol=1e-4)
    np.testing.assert_allclose(at.sigma[1:], np.sqrt(1 - bar)[1:], rtol=1e-6)
    np.testing.assert_allclose(GVP()(time).sigma, np.sin(np.pi / 2 * time64), rtol=1e-6)


@pytest.mark.parametrize("path", [Linear(), GVP(), VPCosine()], ids=repr)
def test_no_data_is_left_at_time_1(path):
    assert path(jnp.ones(())).alpha == 0


def test_the_cosine_chain_follows_the_continuous_path_until_it_is_clipped():
    time = jnp.linspace(0.001, 0.99, 100)
    discrete, continuous = DDPMCosine()(time), VPCosine()(time)
    np.testing.assert_allclose(discrete.alpha, continuous.alpha, atol=2e-4)


def test_the_linear_chain_follows_the_vp_sde():
    # beta(t) = 0.1 + 19.9 t discretised in 1,000 steps is 1e-4 to 0.02.
    time = jnp.linspace(0.001, 1, 100)
    np.testing.assert_allclose(
        DDPMLinear()(time).alpha, VPLinear()(time).alpha, atol=2e-3
    )


def test_edm_levels_are_proportional_to_time():
    path = EDM(sigma_max=10.0, sigma_data=2.0)
    np.testing.assert_allclose(path(jnp.float32(0.3)).sigma, 3.0)
    np.testing.assert_allclose(time_from_sigma(path, jnp.float32(3)), 0.3, rtol=1e-6)
    np.testing.assert_allclose(time_from_sigma(path, jnp.float32(11)), 1.0)
    np.testing.assert_allclose(path.input_scale(jnp.float32(0)), 0.5)


def test_a_bare_callable_is_a_path():
    def squared(time):
        return Coefficients(1 - time**2, time, -2 * time, jnp.ones_like(time))

    time = jnp.linspace(0.01, 0.99, 20)
    back = time_from_log_snr(squared, log_snr(squared, time))
    np.testing.assert_allclose(back, time, atol=2e-6)
    whole = transition(squared, time[5:], time[:-5])
    at, before = squared(time[5:]), squared(time[:-5])
    variance = at.sigma**2 - (whole.ratio * before.sigma) ** 2
    np.testing.assert_allclose(whole.variance, variance, rtol=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DDPMLinear(steps=0), "steps is 0"),
        (lambda: DDPMCosine(steps=-1), "steps is -1"),
        (lambda: DDPMLinear(steps=10), "must lie strictly between 0 and 1"),
        (lambda: DDPMScaledLinear(last=1.5), "must lie strictly between 0 and 1"),
        (lambda: VPLinear(3.0, 2.0), "beta_min and beta_max are 3.0 and 2.0"),
        (lambda: VPCosine(0.0), "offset is 0.0"),
        (lambda: EDM(sigma_max=-1.0), "sigma_max is -1.0"),
        (lambda: EDM(sigma_data=0.0), "sigma_data is 0.0"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
