# SPDX-License-Identifier: Apache-2.0
"""The table of targets, against the papers' own statements of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.processes import EDM, DDPMLinear, Gaussian, Linear, Prediction, VPLinear

TIME = jnp.array([0.003, 0.05, 0.4])


def made(process, scale=1.0):
    x_0 = scale * jax.random.normal(jax.random.key(0), (3, 400, 2))
    return x_0, *process.corrupt(jax.random.key(1), x_0, TIME)


def test_edm_is_the_published_preconditioning():
    process = Gaussian(EDM(), "edm")
    x_0, x_t, truth = made(process, 0.5)
    sigma = np.float64(80) * np.asarray(TIME)[:, None, None]
    skip = 0.25 / (sigma**2 + 0.25)
    out = sigma * 0.5 / np.sqrt(sigma**2 + 0.25)
    raw = process.express(truth, TIME, to="edm")
    np.testing.assert_allclose(skip * x_t + out * raw, x_0, atol=1e-4)
    # It was derived to give input and target unit variance.
    for value in (raw, process.scale(x_t, TIME)):
        np.testing.assert_allclose(jnp.std(value, (1, 2)), 1, rtol=0.06)


def test_edm_is_minus_v_for_data_of_unit_variance():
    process = Gaussian(VPLinear())
    _, _, truth = made(process)
    edm, v = (process.express(truth, TIME, to=to) for to in ("edm", "v"))
    np.testing.assert_allclose(edm, -v, atol=1e-6)


def test_the_score_is_the_gradient_of_the_log_density():
    process = Gaussian(VPLinear(), "score")
    x_0, x_t, truth = made(process)
    at = process.path(TIME)

    def log_density(x):
        mean, sigma = at.alpha[:, None, None] * x_0, at.sigma[:, None, None]
        return jax.scipy.stats.norm.logpdf(x, mean, sigma).sum()

    score = process.express(truth, TIME, to="score")
    np.testing.assert_allclose(score, jax.grad(log_density)(x_t), rtol=1e-2, atol=1e-2)


def test_the_velocity_of_rectified_flow_is_noise_minus_data_at_every_time():
    process = Gaussian(Linear())
    x_0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4))
    time = jnp.array([0.0, 0.5, 1.0])
    x_t = (1 - time[:, None]) * x_0 + time[:, None] * noise
    solved = process.predict(noise - x_0, x_t, time)
    np.testing.assert_allclose(solved.x_0, x_0, atol=1e-6)
    np.testing.assert_allclose(solved.noise, noise, atol=1e-6)


def test_extra_channels_of_the_output_are_the_variance():
    process = Gaussian(DDPMLinear(), "noise")
    output = jax.random.normal(jax.random.key(0), (3, 4, 6))
    x_t = jnp.ones((3, 4, 3))
    solved = process.predict(output, x_t, TIME)
    np.testing.assert_array_equal(solved.variance, output[..., 3:])
    assert process.predict(output[..., :3], x_t, TIME).variance is None
    np.testing.assert_allclose(solved.noise, output[..., :3], atol=1e-5)


def test_scalar_times_serve_a_whole_batch():
    process = Gaussian(VPLinear(), "noise")
    value, x_t = jax.random.normal(jax.random.key(0), (2, 3, 4))
    one = process.convert(value, x_t, jnp.float32(0.3), source="noise", to="x_0")
    many = process.convert(value, x_t, jnp.full(3, 0.3), source="noise", to="x_0")
    np.testing.assert_allclose(one, many, rtol=1e-6)


def test_an_unknown_target_is_named():
    with pytest.raises(ValueError, match="target is 'eps', but it must be one of 'noi"):
        Gaussian(Linear(), "eps")
    x = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="to is 'flow', but"):
        Gaussian().convert(x, x, jnp.ones(1), source="noise", to="flow")
    with pytest.raises(ValueError, match="source is 'flow', but"):
        Gaussian().convert(x, x, jnp.ones(1), source="flow", to="noise")
    with pytest.raises(ValueError, match="target is 'flow', but"):
        Gaussian().express(Prediction(x, x), jnp.ones(1), to="flow")
