# SPDX-License-Identifier: Apache-2.0
"""Chains and training times against diffusers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.objectives import LogitNormal, Mode
from jdit.processes import (
    DDPMCosine,
    DDPMLinear,
    DDPMScaledLinear,
    FixedLarge,
    FixedSmall,
    Gaussian,
    LearnedRange,
    Prediction,
    posterior,
)

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

CHAINS = [
    (DDPMLinear(), dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
    (
        DDPMScaledLinear(),
        dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    ),
    (DDPMCosine(), dict(beta_schedule="squaredcos_cap_v2")),
]
TARGETS = {"noise": "epsilon", "x_0": "sample", "v": "v_prediction"}
each_chain = pytest.mark.parametrize("path, config", CHAINS, ids=lambda x: repr(x)[:40])


@each_chain
def test_the_chain_is_that_of_diffusers(path, config):
    scheduler = diffusers.DDPMScheduler(1000, **config)
    np.testing.assert_allclose(path.betas, scheduler.betas.numpy(), rtol=3e-4)
    at = path(path.time(jnp.arange(1000)))
    bar = scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(at.alpha, np.sqrt(bar), rtol=1e-4)  # theirs is float32
    np.testing.assert_allclose(at.sigma, np.sqrt(1 - bar), rtol=1e-3)


@each_chain
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge(), LearnedRange()])
def test_a_reverse_step_is_that_of_diffusers(path, config, target, variance):
    kind = {"FixedSmall": "fixed_small", "FixedLarge": "fixed_large"}
    scheduler = diffusers.DDPMScheduler(
        1000,
        **config,
        clip_sample=False,
        prediction_type=TARGETS[target],
        variance_type=kind.get(type(variance).__name__, "learned_range"),
    )
    learned = isinstance(variance, LearnedRange)
    random = np.random.default_rng(0)
    x_t = random.normal(size=(1, 2, 4, 4)).astype(np.float32)
    output = random.normal(size=(1, 4 if learned else 2, 4, 4)).astype(np.float32)
    last = lambda x: jnp.asarray(np.moveaxis(x, 1, -1))  # noqa: E731
    for index in (1, 10, 500, 900):
        seed = torch.Generator().manual_seed(0)
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0))
        step = scheduler.step(
            torch.tensor(output), index, torch.tensor(x_t), generator=seed
        )
        time, before = path.time(jnp.array([index])), path.time(jnp.array([index - 1]))
        guess = Gaussian(path, target).predict(last(output), last(x_t), time)
        np.testing.assert_allclose(
            guess.x_0, last(step.pred_original_sample.numpy()), rtol=2e-4, atol=2e-4
        )
        q = posterior(path, time, before)
        mean = q.coef_x0 * guess.x_0 + q.coef_xt * last(x_t)
        spread = jnp.exp(variance(q, guess) / 2) * last(noise.numpy())
        np.testing.assert_allclose(
            mean + spread, last(step.prev_sample.numpy()), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("index", [0, 3, 700])
def test_noising_is_that_of_diffusers(index):
    scheduler = diffusers.DDPMScheduler(1000, **CHAINS[0][1])
    x_0, noise = np.random.default_rng(0).normal(size=(2, 1, 8)).astype(np.float32)
    theirs = scheduler.add_noise(
        *map(torch.tensor, (x_0, noise)), torch.tensor([index])
    )
    process = Gaussian(DDPMLinear(), "x_0")
    at = process.path(process.path.time(jnp.int32(index)))
    ours = at.alpha * x_0 + at.sigma * noise
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    solved = process.solve(
        jnp.asarray(x_0), ours, (index + 1) / jnp.float32(1000), source="x_0"
    )
    assert isinstance(solved, Prediction)
    np.testing.assert_allclose(solved.noise, noise, atol=1e-3)


@pytest.mark.parametrize(
    "times, config",
    [
        (
            LogitNormal(0.2, 0.9),
            dict(weighting_scheme="logit_normal", logit_mean=0.2, logit_std=0.9),
        ),
        (Mode(1.29), dict(weighting_scheme="mode", mode_scale=1.29)),
    ],
)
def test_training_times_are_distributed_as_in_diffusers(times, config):
    from diffusers.training_utils import compute_density_for_timestep_sampling
    from scipy.stats import ks_2samp

    seed = torch.Generator().manual_seed(0)
    theirs = compute_density_for_timestep_sampling(
        batch_size=20_000, generator=seed, **config
    )
    ours = times(jax.random.key(0), (20_000,))
    assert ks_2samp(np.asarray(ours), theirs.numpy()).pvalue > 1e-3
