# SPDX-License-Identifier: Apache-2.0
"""Trajectories against diffusers' schedulers, and DiT's sampler against its equations.

The denoiser is a fixed function of x_t and the noise level, not the exact one of any
data, so that nothing cancels. Noise is drawn once, by this library, and handed over.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.processes import (
    EDM,
    DDPMLinear,
    FixedLarge,
    FixedSmall,
    Gaussian,
    LearnedRange,
    Linear,
)
from jdit.sample import image_keys, integrate
from jdit.solvers import (
    DDIM,
    DDPM,
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    Euler,
    Heun,
    Leading,
    Respaced,
    Times,
    Trailing,
    UniPC,
    normal,
)

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (3, 4, 4, 2)
KEYS = image_keys(jax.random.key(5), SHAPE[0])


def network(x, level, xp):
    """A prediction of x_0 for data plus noise of standard deviation `level`."""
    return 0.8 * xp.tanh(x / (1 + level)) + 0.1 * xp.cos(3 * x)


def fraction(x, xp):
    """A learned variance, in and a little beyond [-1, 1]."""
    return 1.1 * xp.sin(2 * x)


@dataclass(frozen=True)
class Fixed:
    """`network` as a denoiser; x is scaled to data plus noise first."""

    process: Gaussian

    def init(self, x_t, conditions):
        return ()

    def null(self, conditions):
        return conditions

    def __call__(self, x_t, time, conditions, memory, evaluation):
        at = self.process.path(time)
        scale = 1 / jnp.hypot(at.alpha, at.sigma)
        x_0 = network(x_t * scale, at.sigma * scale, jnp)
        solved = self.process.solve(x_0, x_t, time, source="x_0")
        return solved._replace(variance=fraction(x_t * scale, jnp)), memory


def ours(path, solver, times, x):
    process = Gaussian(path)

    @jax.jit
    def run(x):
        return integrate(Fixed(process), process, x, {}, times, solver, KEYS)

    return np.asarray(run(x))


def noise_of_step(index):
    keys = jax.vmap(lambda k: jax.random.fold_in(k, index))(KEYS)
    return np.asarray(normal(keys, jnp.zeros(SHAPE)))


def start(scale=1.0):
    return scale * np.asarray(jax.random.normal(jax.random.key(1), SHAPE))


def close(x, expected):
    np.testing.assert_allclose(x, expected, atol=1e-4, rtol=1e-4)


def theirs(scheduler, x, coefficients, express, **step):
    """A trajectory of a scheduler. coefficients: timestep, position -> (alpha, sigma);
    express: (x_0, noise, alpha, sigma) -> the output the scheduler expects."""
    x = torch.tensor(x)
    for i, t in enumerate(scheduler.timesteps):
        alpha, sigma = coefficients(t, i)
        scale = 1 / (alpha**2 + sigma**2) ** 0.5
        x_0 = network(x * scale, sigma * scale, torch)
        noise = (x - alpha * x_0) / sigma
        output = express(x_0, noise, alpha, sigma)
        if scheduler.config.get("variance_type") == "learned_range":
            output = torch.cat([output, fraction(x * scale, torch)], 1)
        extra = {k: torch.tensor(v(i)) for k, v in step.items() if callable(v)}
        extra |= {k: v for k, v in step.items() if not callable(v)}
        x = scheduler.step(output, t, x, **extra).prev_sample
    return x.numpy()


def chain(scheduler):
    """(alpha, sigma) of a scheduler's timestep."""
    bar = scheduler.alphas_cumprod.double()
    return lambda t, _: (float(bar[int(t)].sqrt()), float((1 - bar[int(t)]).sqrt()))


def first(x):
    """Channels first."""
    return np.moveaxis(x, -1, 1)


def flow(times):
    """(alpha, sigma) of a flow's position."""
    return lambda _, i: (1 - times[i], times[i])


def noise(x_0, noise, alpha, sigma):
    return noise


def velocity(x_0, noise, alpha, sigma):
    return noise - x_0


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(eta, spacing):
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        clip_sample=False,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(20)
    expected = theirs(
        scheduler,
        start(),
        chain(scheduler),
        noise,
        eta=eta,
        variance_noise=noise_of_step if eta else None,
    )
    grid = Leading() if spacing == "leading" else Trailing()
    times = grid(Gaussian(), 20)
    close(ours(DDPMLinear(), DDIM(eta), times, start()), expected)


def test_ddim_clipped():
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=True, clip_sample_range=0.5
    )
    scheduler.set_timesteps(20)
    expected = theirs(
        scheduler, start(), chain(scheduler), noise, use_clipped_model_output=True
    )
    times = Leading()(Gaussian(), 20)
    close(ours(DDPMLinear(), DDIM(clip=0.5), times, start()), expected)


@pytest.mark.parametrize(
    "kind, variance",
    [
        ("fixed_small", FixedSmall()),
        ("fixed_large", FixedLarge()),
        ("learned_range", LearnedRange()),
    ],
)
def test_ddpm(kind, variance, monkeypatch):
    from diffusers.schedulers import scheduling_ddpm

    scheduler = diffusers.DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, variance_type=kind
    )
    scheduler.set_timesteps(20)
    draws = iter(range(20))

    def draw(*_, **__):
        return torch.tensor(first(noise_of_step(next(draws))))

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", draw)
    expected = theirs(scheduler, first(start()), chain(scheduler), noise)
    times = Leading()(Gaussian(), 20)
    close(first(ours(DDPMLinear(), DDPM(variance), times, start())), expected)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.tolist()
    expected = theirs(
        scheduler,
        start(),
        flow(sigmas),
        velocity,
    )
    times = Times(tuple(sigmas))(Gaussian(), 12)
    close(ours(Linear(), Euler(), times, start()), expected)


def test_flow_heun():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.tolist()
    expected = theirs(
        scheduler,
        start(),
        flow(sigmas),
        velocity,
    )
    times = tuple(sorted(set(sigmas), reverse=True))
    times = Times(times)(Gaussian(), len(times) - 1)
    close(ours(Linear(), Heun(), times, start()), expected)


@pytest.mark.parametrize(
    "kind, solver",
    [("EulerDiscreteScheduler", Euler()), ("HeunDiscreteScheduler", Heun())],
)
def test_edm(kind, solver):
    """Karras' noise levels and x = x_0 + sigma noise."""
    scheduler = getattr(diffusers, kind)(
        use_karras_sigmas=True, prediction_type="epsilon"
    )
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.tolist()
    x = start(sigmas[0])
    for t in scheduler.timesteps:  # marks the input as scaled, which is done here
        scheduler.scale_model_input(torch.tensor(x), t)
        scheduler._step_index = None
    expected = theirs(scheduler, x, lambda _, i: (1.0, sigmas[i]), noise)
    levels = np.asarray(sorted(set(sigmas), reverse=True))
    times = Times(tuple(levels / levels[0]))(Gaussian(), len(levels) - 1)
    close(ours(EDM(float(levels[0])), solver, times, x), expected)


SOLVERS = [
    (DPMSolverPP2M(), "DPMSolverMultistepScheduler", {}),
    (
        DPMSolverPP2MSDE(),
        "DPMSolverMultistepScheduler",
        dict(algorithm_type="sde-dpmsolver++"),
    ),
    (UniPC(), "UniPCMultistepScheduler", {}),
]


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("is_flow", [False, True])
@pytest.mark.parametrize("solver, kind, settings", SOLVERS, ids=lambda x: str(x))
def test_multistep(solver, kind, settings, is_flow, steps):
    if is_flow:
        settings = settings | dict(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0
        )
    scheduler = getattr(diffusers, kind)(
        beta_start=1e-4,
        beta_end=0.02,
        timestep_spacing="linspace",
        final_sigmas_type="zero",
        **settings,
    )
    scheduler.set_timesteps(steps)
    if is_flow:
        times = scheduler.sigmas.tolist()
        level, express = flow(times), velocity
    else:
        times = [*((scheduler.timesteps.double() + 1) / 1000).tolist(), 0.0]
        level, express = chain(scheduler), noise
    drawn = dict(variance_noise=noise_of_step) if "sde" in str(settings) else {}
    expected = theirs(scheduler, start(), level, express, **drawn)
    times = Times(tuple(times))(Gaussian(), steps)
    path = Linear() if is_flow else DDPMLinear()
    close(ours(path, solver, times, start()), expected)


@pytest.mark.parametrize("steps", [5, 20])
def test_unipc_bh1(steps):
    """Down to index 0 and not to time 0, where diffusers' bh1 is not a number."""
    scheduler = diffusers.UniPCMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        timestep_spacing="linspace",
        final_sigmas_type="sigma_min",
        solver_type="bh1",
    )
    scheduler.set_timesteps(steps)
    expected = theirs(scheduler, start(), chain(scheduler), noise)
    times = [*((scheduler.timesteps.double() + 1) / 1000).tolist(), 1 / 1000]
    times = jnp.asarray(times, jnp.float32)
    close(ours(DDPMLinear(), UniPC("bh1"), times, start()), expected)


@pytest.mark.parametrize("steps", [250, 37])
def test_dit_respaced_sampler(steps):
    """Improved DDPM's respaced chain with a learned variance, in float64, from the
    papers: betas of the kept indices (Nichol and Dhariwal, equation 19), the posterior
    (Ho et al., equations 6 and 7), the log-interpolated variance (equation 15)."""
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    kept = np.unique(np.round(np.linspace(0, 999, steps)).astype(int))
    assert len(kept) == steps
    bar = bar[kept]
    previous = np.concatenate([[1.0], bar[:-1]])
    beta = 1 - bar / previous
    small = beta * (1 - previous) / (1 - bar)
    x = start().astype(np.float64)
    for number, i in enumerate(reversed(range(steps))):
        x_0 = network(x, np.sqrt(1 - bar[i]), np)
        mean = np.sqrt(previous[i]) * beta[i] / (1 - bar[i]) * x_0
        mean += np.sqrt(1 - beta[i]) * (1 - previous[i]) / (1 - bar[i]) * x
        if i:
            share = (fraction(x, np) + 1) / 2
            log = share * np.log(beta[i]) + (1 - share) * np.log(small[i])
            mean = mean + np.exp(log / 2) * noise_of_step(number)
        x = mean
    times = Respaced()(Gaussian(), steps)
    close(ours(DDPMLinear(), DDPM(LearnedRange()), times, start()), x)
