# SPDX-License-Identifier: Apache-2.0
"""Posteriors and the bound, against float64 forms of the papers' equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jdit.processes import (
    DDPMCosine,
    DDPMLinear,
    FixedLarge,
    FixedSmall,
    Gaussian,
    LearnedRange,
    Prediction,
    gaussian_kl,
    pixel_nll,
    posterior,
    vlb,
)


@pytest.mark.parametrize("path", [DDPMLinear(), DDPMCosine()], ids=repr)
@pytest.mark.parametrize("count", [1000, 250])
def test_posteriors_of_a_chain(path, count):
    index = np.round(np.linspace(0, path.steps - 1, count)).astype(int)
    bar = np.cumprod(1 - path.betas)[index]
    before = np.append(1, bar[:-1])
    beta = 1 - bar / before
    variance = beta * (1 - before) / (1 - bar)
    small = np.log(np.append(variance[1], variance[1:]))

    time = path.time(index)
    next_time = path.time(jnp.asarray(np.append(-1, index[:-1])))
    above = path.time(jnp.asarray(np.append(index[1:], path.steps - 1)))
    q = jax.jit(lambda *times: posterior(path, *times))(time, next_time, above)
    np.testing.assert_allclose(q.coef_x0, beta * before**0.5 / (1 - bar), rtol=1e-5)
    np.testing.assert_allclose(
        q.coef_xt, (1 - before) * (bar / before) ** 0.5 / (1 - bar), atol=1e-6
    )
    np.testing.assert_allclose(q.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(q.log_variance_small, small, atol=1e-5)
    np.testing.assert_allclose(q.log_beta_large, np.log(beta), atol=1e-5)
    if count == path.steps:  # equally spaced: `above` need not be told
        default = posterior(path, time, next_time)
        np.testing.assert_allclose(default.log_variance_small, small, atol=1e-5)


def test_variances_lie_where_they_say():
    path = DDPMLinear()
    q = posterior(path, path.time(jnp.array([0, 9])), path.time(jnp.array([-1, 8])))
    x = jnp.zeros(2)
    small, large = (v(q, Prediction(x, x)) for v in (FixedSmall(), FixedLarge()))
    np.testing.assert_array_equal(small, q.log_variance_small)
    assert large[0] == q.log_variance_small[0] and large[1] == q.log_beta_large[1]

    def learned(v):
        return LearnedRange()(q, Prediction(x, x, jnp.full(2, v)))

    np.testing.assert_allclose(learned(-1.0), q.log_variance_small, rtol=1e-6)
    np.testing.assert_allclose(learned(1.0), q.log_beta_large, rtol=1e-6)
    middle = (q.log_variance_small + q.log_beta_large) / 2
    np.testing.assert_allclose(learned(0.0), middle, rtol=1e-6)
    with pytest.raises(ValueError, match="the prediction has no variance"):
        LearnedRange()(q, Prediction(x, x))


def test_the_kl_divergence_is_the_integral():
    x = np.linspace(-30, 30, 200_001)
    p, q = norm(0.3, 0.8), norm(-0.5, 1.7)
    expected = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
    actual = gaussian_kl(jnp.float32(0.8), 2 * jnp.log(0.8), 2 * jnp.log(1.7))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert gaussian_kl(jnp.zeros(()), jnp.float32(-3), jnp.float32(-3)) == 0


@pytest.mark.parametrize("mean, scale", [(0.1, 0.05), (-0.9, 0.01), (0.7, 0.5)])
def test_the_masses_of_all_pixels_add_to_one_and_are_nearly_normal(mean, scale):
    levels = np.linspace(-1, 1, 256)
    nll = pixel_nll(jnp.asarray(levels), jnp.float32(mean), jnp.log(scale))
    mass = np.exp(-np.asarray(nll, np.float64))
    np.testing.assert_allclose(mass.sum(), 1, atol=1e-4)
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    np.testing.assert_allclose(mass, np.diff(norm(mean, scale).cdf(edges)), atol=4e-4)
    assert (np.asarray(nll) <= -np.log(1e-12) + 1e-4).all()  # the least mass, 1e-12


def test_pixels_far_from_the_mean_have_finite_gradients():
    x = jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0])

    def loss(mean, log):
        return pixel_nll(x, mean, log).sum()

    for mean in (-5.0, 0.0, 5.0):
        for log in (-9.0, 0.0, 3.0):
            for leaf in jax.grad(loss, (0, 1))(mean, log):
                assert np.isfinite(leaf)


def expected_bits(path, x_0, noise, output, index):
    """The bound's term in float64, straight from the equations; one example."""
    bar = np.cumprod(1 - path.betas)
    before = np.append(1, bar[:-1])
    variance = path.betas * (1 - before) / (1 - bar)
    small = np.log(np.append(variance[1], variance[1:]))[index]
    now, last, beta = bar[index], before[index], path.betas[index]
    x_t = now**0.5 * x_0 + (1 - now) ** 0.5 * noise
    guess, v = np.split(output, 2, -1)
    guess = (x_t - (1 - now) ** 0.5 * guess) / now**0.5
    data = beta * last**0.5 / (1 - now)
    state = (1 - last) * (1 - beta) ** 0.5 / (1 - now)
    log = (v + 1) / 2 * np.log(beta) + (1 - (v + 1) / 2) * small
    mean = data * guess + state * x_t
    if index:
        gap = data * x_0 + state * x_t - mean
        nats = log - small + np.exp(small - log) - 1 + gap**2 * np.exp(-log)
        return x_t, nats.mean() / 2 / np.log(2)

    def phi(z):
        return (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3))) / 2

    scale = np.exp(log / 2)
    upper = np.where(x_0 > 0.999, 1, phi((x_0 + 1 / 255 - mean) / scale))
    lower = np.where(x_0 < -0.999, 0, phi((x_0 - 1 / 255 - mean) / scale))
    return x_t, -np.log2(np.maximum(upper - lower, 1e-12)).mean()


@pytest.mark.parametrize("path", [DDPMLinear(), DDPMCosine()], ids=repr)
def test_the_bound_is_that_of_the_equations(path):
    random = np.random.default_rng(0)
    index = np.array([0, 0, 1, 2, 10, 400, 990, 997])
    x_0 = np.round((random.uniform(-1, 1, (8, 5, 4)) + 1) * 127.5) / 127.5 - 1
    x_0[:, 0], x_0[:, 1] = -1, 1
    noise = random.normal(size=x_0.shape)
    output = np.concatenate([noise, noise * 0.3], -1)
    output = output + 0.1 * random.normal(size=output.shape)
    pairs = [
        expected_bits(path, *parts, i)
        for *parts, i in zip(x_0, noise, output, index, strict=True)
    ]
    x_t, expected = (np.stack(part) for part in zip(*pairs, strict=True))
    x_0, x_t, output = (jnp.asarray(a, jnp.float32) for a in (x_0, x_t, output))
    time = path.time(index)
    prediction = Gaussian(path, "noise").predict(output, x_t, time)
    bits = jax.jit(lambda p: vlb(path, x_0, x_t, p, time, path.time(index - 1)))
    np.testing.assert_allclose(bits(prediction), expected, rtol=5e-4)


def test_the_bound_is_zero_for_the_posterior_itself():
    path = DDPMLinear()
    x_0, x_t = jax.random.normal(jax.random.key(0), (2, 3, 4))
    index = jnp.array([1, 30, 100])
    times = path.time(index), path.time(index - 1)
    exact = Prediction(x_0, x_t)
    bits = vlb(path, x_0, x_t, exact, *times, variance=FixedSmall())
    np.testing.assert_allclose(bits, 0, atol=1e-6)
    assert (vlb(path, x_0, x_t, exact, *times, variance=FixedLarge()) > 0).all()
