# SPDX-License-Identifier: Apache-2.0
"""Every solver and every grid, on data whose denoiser is known in closed form.

Pixels are independent, `x_0 ~ N(mu, s^2)` with another mu and s for each channel. Then
`E[x_0 | x_t]` is linear in x_t, and the probability-flow ODE moves the z-th quantile:
`x(t) = alpha mu + sqrt(alpha^2 s^2 + sigma^2) z`.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from jdit.processes import (
    EDM,
    GVP,
    DDPMLinear,
    FixedLarge,
    FixedSmall,
    Gaussian,
    LearnedRange,
    Linear,
    Prediction,
    VPCosine,
    VPLinear,
    log_snr,
    time_from_log_snr,
)
from jdit.sample import image_keys, integrate
from jdit.solvers import (
    DDIM,
    DDPM,
    SBDM,
    Constant,
    Decreasing,
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    EDMRho,
    Euler,
    EulerMaruyama,
    Heun,
    IncreasingDecreasing,
    Leading,
    LinearDiffusion,
    Linspace,
    LogSNR,
    Respaced,
    Shifted,
    Sigmoid,
    Stretched,
    Sway,
    Times,
    Trailing,
    TwoSided,
    Uniform,
    UniPC,
)

PATHS = [Linear(), GVP(), EDM(10.0), VPLinear(), VPCosine(), DDPMLinear()]
SMOOTH = [Linear(), EDM(10.0), VPLinear()]
MEAN = jnp.asarray([0.4, -0.3, 0.0, 0.2])
SPREAD = jnp.asarray([0.3, 0.5, 0.8, 1.2])

ORDERS = [
    (Euler(), 1),
    (DDIM(), 1),
    (Heun(), 2),
    (DPMSolverPP2M(), 2),
    (UniPC(), 2),
    (UniPC("bh1"), 2),
]
STOCHASTIC = [
    DDIM(eta=1.0),
    DDIM(eta=0.5),
    DDPM(FixedSmall()),
    DDPM(FixedLarge()),
    DDPM(LearnedRange()),
    DPMSolverPP2MSDE(),
    EulerMaruyama(),
]
DIFFUSIONS = [
    Constant(0.5),
    SBDM(),
    LinearDiffusion(),
    Decreasing(),
    IncreasingDecreasing(),
]
GRIDS = [
    Uniform(),
    Uniform(first=0.999, last=0.001),
    Uniform(least=0.001),
    Respaced(),
    Leading(),
    Leading(offset=1),
    Trailing(),
    EDMRho(),
    EDMRho(sigma_max=5.0),
    LogSNR(),
    Shifted(3.0),
    Shifted(0.5, LogSNR()),
    Sigmoid(),
    Sway(),
    Sway(0.5),
    TwoSided(),
    Linspace(),
    Stretched(0.1, Shifted(3.0)),
]


def name(part):
    return part if isinstance(part, int) else repr(part).replace("=", " ")


@dataclass(frozen=True)
class Exact:
    """E[x_0 | x_t] and E[noise | x_t], and a learned variance half way."""

    process: Gaussian

    def init(self, x_t, conditions):
        return jnp.zeros((), jnp.int32)

    def null(self, conditions):
        return conditions

    def __call__(self, x_t, time, conditions, memory, evaluation):
        at = self.process.path(time)
        variance = jnp.square(at.alpha * SPREAD) + jnp.square(at.sigma)
        centred = (x_t - at.alpha * MEAN) / variance
        x_0 = MEAN + at.alpha * jnp.square(SPREAD) * centred
        return Prediction(x_0, at.sigma * centred, jnp.zeros_like(x_t)), memory + 1


def solution(path, time, z):
    at = path(jnp.asarray(time))
    return at.alpha * MEAN + jnp.hypot(at.alpha * SPREAD, at.sigma) * z


def run(path, solver, times, x, seed=0):
    process = Gaussian(path, "v")
    keys = image_keys(jax.random.key(seed), len(x))
    return integrate(Exact(process), process, x, {}, times, solver, keys)


@pytest.mark.parametrize("path", SMOOTH, ids=name)
@pytest.mark.parametrize("solver, order", ORDERS, ids=name)
def test_order_of_convergence(solver, order, path):
    """Between two times where log SNR is finite, in equal steps of log SNR."""
    z = jnp.linspace(-2, 2, 5)[:, None] * jnp.ones(4)
    ends = log_snr(path, jnp.asarray([0.8, 0.1]))
    solve = jax.jit(partial(run, path, solver))
    errors = []
    for steps in (16, 64):
        times = time_from_log_snr(path, jnp.linspace(ends[0], ends[1], steps + 1))
        x = solve(times, solution(path, times[0], z))
        errors.append(float(jnp.abs(x - solution(path, times[-1], z)).max()))
    slope = math.log(errors[0] / errors[1], 4)
    assert errors[1] < 0.05
    assert slope > order - 0.25, errors


@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("solver", [s for s, _ in ORDERS] + STOCHASTIC, ids=name)
def test_finite_from_time_1_to_0(solver, path):
    """No infinity where alpha or sigma is 0, for one step and for several."""
    z = jnp.linspace(-1, 1, 3)[:, None] * jnp.ones(4)
    with jax.disable_jit():
        for steps in (1, 3):
            x = run(path, solver, jnp.linspace(1, 0, steps + 1), solution(path, 1.0, z))
            assert x.shape == z.shape and x.dtype == jnp.float32
            assert jnp.isfinite(x).all()
            assert jnp.abs(x).max() < 100


@pytest.mark.parametrize("solver", [s for s, _ in ORDERS], ids=name)
def test_reaches_the_data_and_compiles_once(solver):
    """All the way to time 0, on rectified flow, whose ends are both infinite."""
    z = jnp.linspace(-2, 2, 5)[:, None] * jnp.ones(4)
    solve = jax.jit(partial(run, Linear(), solver, jnp.linspace(1, 0, 65)))
    for scale in (1, -1):
        noise = solution(Linear(), 1.0, scale * z)
        with compilations() as compiled:
            x = solve(noise)
        assert scale == 1 or not compiled
        error = jnp.abs(x - solution(Linear(), 0.0, scale * z)).max()
        assert error < (0.1 if isinstance(solver, (Euler, DDIM)) else 0.02)


CASES = (
    [(solver, Linear()) for solver in STOCHASTIC]
    + [(solver, VPLinear()) for solver in (DDPM(LearnedRange()), EulerMaruyama())]
    + [(DPMSolverPP2MSDE(), EDM(10.0))]
    + [(EulerMaruyama(w), Linear()) for w in DIFFUSIONS]
    + [(EulerMaruyama(last=last), GVP()) for last in ("euler", "tweedie")]
)


@pytest.mark.parametrize("solver, path", CASES, ids=name)
def test_stochastic_solvers_sample_the_data(solver, path):
    """Mean and variance of 4,096 draws, within 4 standard errors and the bias that 100
    steps leave."""
    z = jax.random.normal(jax.random.key(1), (4096, 4))
    grid = EDMRho(sigma_max=10.0) if isinstance(path, EDM) else Uniform()
    times = grid(Gaussian(path), 100)
    x = jax.jit(partial(run, path, solver, times))(solution(path, 1.0, z))
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.01 + 4 * 1.2 / 64)
    bound = 0.08 + 4 * math.sqrt(2 / 4096)
    np.testing.assert_allclose(x.var(0) / np.square(SPREAD), 1, atol=bound)


@pytest.mark.parametrize("solver", STOCHASTIC, ids=name)
def test_noise_belongs_to_the_image(solver):
    z = jax.random.normal(jax.random.key(2), (6, 4))
    x, keys = solution(Linear(), 1.0, z), image_keys(jax.random.key(3), 6)
    process = Gaussian(Linear(), "v")
    times = jnp.linspace(1, 0, 4)

    def draw(rows):
        return integrate(
            Exact(process), process, x[rows], {}, times, solver, keys[rows]
        )

    with jax.disable_jit():
        np.testing.assert_allclose(draw(slice(2, 4)), draw(slice(6))[2:4], atol=1e-5)
        assert not jnp.allclose(draw(slice(6)), run(Linear(), solver, times, x, 4))


@pytest.mark.parametrize("solver", [s for s, _ in ORDERS] + STOCHASTIC, ids=name)
def test_evaluations_are_numbered_as_promised(solver):
    """The denoiser is told step * evaluations + j, each number once."""
    seen = []

    @dataclass(frozen=True)
    class Spy(Exact):
        def __call__(self, x_t, time, conditions, memory, evaluation):
            seen.append(int(evaluation))
            return super().__call__(x_t, time, conditions, memory, evaluation)

    process, steps = Gaussian(Linear(), "v"), 3
    keys = image_keys(jax.random.key(0), 1)
    with jax.disable_jit():
        integrate(
            Spy(process),
            process,
            jnp.ones((1, 4)),
            {},
            Uniform()(process, steps),
            solver,
            keys,
        )
    promised = list(range(steps * solver.evaluations))
    assert seen == (promised[:-1] if isinstance(solver, Heun) else promised)


@pytest.mark.parametrize("path", [*SMOOTH, DDPMLinear()], ids=name)
@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_grids_fall_from_1_to_0(grid, path):
    for steps in (1, 7, 50):
        times = np.asarray(grid(Gaussian(path), steps))
        assert times.shape == (steps + 1,) and times.dtype == np.float32
        assert times[-1] == 0 and (np.diff(times) < 0).all()
        assert 0 < times[0] <= 1
        if not isinstance(grid, (EDMRho, Leading)):
            assert times[0] >= 0.99
        with pytest.raises(ValueError, match="steps is 0"):
            grid(Gaussian(path), 0)


def test_given_times():
    times = Times((1.0, 0.4, 0.0))
    np.testing.assert_allclose(times(Gaussian(), 2), [1.0, 0.4, 0.0], atol=1e-7)
    with pytest.raises(ValueError, match="steps is 3, but times has 3 entries"):
        times(Gaussian(), 3)
    with pytest.raises(ValueError, match="must fall strictly"):
        Times((1.0, 1.0, 0.0))
