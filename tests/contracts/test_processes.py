# SPDX-License-Identifier: Apache-2.0
"""What every Gaussian path and every prediction target must do."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.processes import (
    EDM,
    GVP,
    TARGETS,
    DDPMCosine,
    DDPMLinear,
    DDPMScaledLinear,
    Gaussian,
    Linear,
    VPCosine,
    VPLinear,
    ZeroTerminal,
    log_snr,
    posterior,
    time_from_log_snr,
    time_from_sigma,
    transition,
)

PATHS = [
    Linear(),
    GVP(),
    EDM(),
    VPLinear(),
    VPCosine(),
    DDPMLinear(),
    DDPMLinear(steps=100),
    DDPMScaledLinear(),
    DDPMCosine(),
    DDPMCosine(steps=50),
    ZeroTerminal(),
    ZeroTerminal(shift=3.0),
]
each_path = pytest.mark.parametrize("path", PATHS, ids=repr)
INNER = jnp.linspace(0.0123, 0.9877, 41)  # on no chain's index
PAIRS = list(product(TARGETS, TARGETS))


def near(actual, expected, tolerance=2e-5):
    scale = np.abs(np.asarray(expected)).max() + 1e-30
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


@each_path
def test_time_0_is_data(path):
    process, x_0 = Gaussian(path), jax.random.normal(jax.random.key(0), (2, 5, 3))
    x_t, truth = process.corrupt(jax.random.key(1), x_0, jnp.zeros(2))
    assert path(jnp.zeros(())).sigma == 0
    np.testing.assert_allclose(x_t, x_0, rtol=3e-7)
    np.testing.assert_array_equal(truth.x_0, x_0)


@each_path
def test_time_1_is_the_prior(path):
    process = Gaussian(path)
    prior = process.prior(jax.random.key(0), jnp.zeros((20_000, 1)))
    at = path(jnp.ones(()))
    scale = float(prior.std())
    assert abs(float(prior.mean())) < 0.03 * scale
    np.testing.assert_allclose(at.sigma, scale, rtol=0.02)
    assert 0 <= float(at.alpha) < 0.07 * scale  # Stable Diffusion's chain leaves 0.068


@each_path
def test_derivatives_are_those_of_the_coefficients(path):
    def pair(time):
        return path(time)[:2]

    _, (d_alpha, d_sigma) = jax.jvp(pair, (INNER,), (jnp.ones_like(INNER),))
    at = path(INNER)
    near(at.d_alpha, d_alpha)
    near(at.d_sigma, d_sigma)


@each_path
def test_log_snr_falls_and_agrees_with_the_coefficients(path):
    times = jnp.linspace(0, 1, 257)
    value = np.asarray(log_snr(path, times))
    assert np.isfinite(value).all() and (np.diff(value) < 0).all()
    alpha, sigma = (np.asarray(x, np.float64) for x in path(INNER)[:2])
    expected = 2 * np.log(alpha / sigma)
    np.testing.assert_allclose(log_snr(path, INNER), expected, rtol=1e-5, atol=1e-5)


@each_path
def test_log_snr_and_sigma_lead_back_to_the_time(path):
    back = time_from_log_snr(path, log_snr(path, INNER))
    np.testing.assert_allclose(back, INNER, atol=5e-6)
    at = path(INNER)
    near(time_from_sigma(path, at.sigma / at.alpha), INNER)
    ends = time_from_log_snr(path, jnp.array([80.0, -80.0]))
    np.testing.assert_allclose(ends, [0, 1], atol=1e-6)


@each_path
def test_transitions_compose_to_the_path(path):
    early, middle, late = INNER[:-10], INNER[5:-5], INNER[10:]
    whole = transition(path, late, early)
    first, second = transition(path, middle, early), transition(path, late, middle)
    near(whole.ratio, second.ratio * first.ratio)
    near(whole.variance, second.variance + second.ratio**2 * first.variance)
    at, before = path(late), path(early)
    near(whole.ratio * before.alpha, at.alpha)
    near(whole.variance + (whole.ratio * before.sigma) ** 2, at.sigma**2)


@each_path
def test_posteriors_keep_the_marginals(path):
    late, early = jnp.append(INNER[1:], 1.0), INNER
    late, early = jnp.append(late, 0.02), jnp.append(early, 0.0)
    q = posterior(path, late, early)
    at, before = path(late), path(early)
    near(q.coef_x0 + q.coef_xt * at.alpha, before.alpha)
    near(q.coef_xt**2 * at.sigma**2 + q.variance, before.sigma**2)
    assert q.variance[-1] == 0 and q.coef_xt[-1] == 0
    near(q.log_variance_small[:-1], jnp.log(q.variance[:-1]))
    for leaf in q:
        assert np.isfinite(leaf).all()


@each_path
def test_all_conversions_invert(path):
    time = jnp.array([0.0503, 0.2017, 0.5011, 0.8009])
    x_0 = jax.random.normal(jax.random.key(0), (4, 3, 2))
    x_t, truth = Gaussian(path).corrupt(jax.random.key(1), x_0, time)

    # Each target leads to the true value of each other one, and so back to itself.
    process = Gaussian(path)
    values = {to: process.express(truth, time, to=to) for to in TARGETS}
    for source, to in PAIRS:
        there = process.convert(values[source], x_t, time, source=source, to=to)
        for actual, expected in zip(there, np.asarray(values[to]), strict=True):
            np.testing.assert_allclose(
                actual, expected, atol=2e-4 * np.abs(expected).max(), err_msg=to
            )


@each_path
def test_everything_is_finite_at_the_ends(path):
    time = jnp.array([0.0, 1e-7, 1.0])
    x_t, value = jax.random.normal(jax.random.key(0), (2, 3, 4))

    process = Gaussian(path)
    solved = [process.solve(value, x_t, time, source=source) for source in TARGETS]
    expressed = [process.express(solved[0], time, to=to) for to in TARGETS]
    rest = *path(time), log_snr(path, time), process.scale(x_t, time)
    for leaf in jax.tree.leaves((solved, expressed, rest)):
        assert np.isfinite(leaf).all()


@each_path
def test_one_compilation_serves_all_times_and_vmap_agrees(path):
    traces = []

    @jax.jit
    def read(time):
        traces.append(time)
        return (*path(time), log_snr(path, time))

    one_by_one = np.stack([np.stack(read(time)) for time in INNER[:5]], 1)
    assert len(traces) == 1
    together = np.stack(jax.vmap(lambda t: (*path(t), log_snr(path, t)))(INNER[:5]))
    np.testing.assert_allclose(one_by_one, together, rtol=2e-6)
