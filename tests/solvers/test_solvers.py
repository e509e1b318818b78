# SPDX-License-Identifier: Apache-2.0
"""What single solvers promise: their coefficients, limits and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.processes import EDM, GVP, Gaussian, Linear, Prediction, VPLinear
from jdit.sample import image_keys, integrate
from jdit.solvers import (
    DDIM,
    DDPM,
    SBDM,
    Constant,
    Decreasing,
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    Euler,
    EulerMaruyama,
    IncreasingDecreasing,
    Interval,
    LinearDiffusion,
    SigmaDiffusion,
    UniPC,
    normal,
)
from jdit.solvers.unipc import _phi

FLOW = Gaussian(Linear(), "velocity")
X = jnp.asarray([[0.3, -2.0], [1.5, 0.7]])
KEYS = image_keys(jax.random.key(0), 2)


def denoise(process):
    def one(x_t, time, memory, evaluation):
        solved = process.solve(jnp.tanh(3 * x_t), x_t, time, source="x_0")
        return solved._replace(variance=-jnp.ones_like(x_t)), memory

    return one


def step(solver, process, time, next_time, index=0, last=False):
    time, next_time = jnp.asarray(time), jnp.asarray(next_time)
    interval = Interval(time, next_time, jnp.asarray(index), jnp.asarray(last), KEYS)
    state = solver.init(X)
    return solver.step(denoise(process), process, X, interval, state, ())[0]


PATHS = [Linear(), GVP(), EDM(5.0), VPLinear()]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_first_steps_agree(path):
    """DDIM is the first-order DPM-Solver++ and UniPC; with eta 1 it is DDPM, and the
    first-order SDE-DPM-Solver++, draw for draw."""
    process = Gaussian(path)
    for times in [(0.8, 0.5), (1.0, 0.7), (0.3, 0.0)]:
        ddim = step(DDIM(), process, *times)
        for solver in (DPMSolverPP2M(), UniPC()):
            np.testing.assert_allclose(step(solver, process, *times), ddim, atol=1e-5)
        ddpm = step(DDPM(), process, *times)
        for solver in (DDIM(eta=1.0), DPMSolverPP2MSDE()):
            np.testing.assert_allclose(step(solver, process, *times), ddpm, atol=1e-4)


def test_nothing_is_extrapolated_from_pure_noise():
    """There lambda rises from minus infinity, so the next step is of first order."""
    solver, one = DPMSolverPP2MSDE(), jnp.asarray

    def go(x, state, time, next_time, index):
        interval = Interval(one(time), one(next_time), one(index), one(False), KEYS)
        return solver.step(denoise(FLOW), FLOW, x, interval, state, ())[:2]

    x, state = go(X, solver.init(X), 1.0, 0.7, 0)
    first = go(x, solver.init(x), 0.7, 0.4, 0)[0]
    np.testing.assert_allclose(go(x, state, 0.7, 0.4, 1)[0], first, atol=1e-6)
    x, state = go(X, solver.init(X), 0.99, 0.7, 0)
    assert np.abs(go(x, state, 0.7, 0.4, 1)[0] - go(x, state, 0.7, 0.4, 0)[0]).max()


def test_euler_is_ddim_on_a_flow():
    np.testing.assert_allclose(
        step(Euler(), FLOW, 0.8, 0.5), step(DDIM(), FLOW, 0.8, 0.5), atol=1e-6
    )


@pytest.mark.parametrize("solver", [DDPM(clip=0.5), DDIM(clip=0.5), DDIM(1.0, 0.5)])
def test_clip_bounds_x_0(solver):
    """The step to time 0 returns x_0 itself."""
    x = step(solver, Gaussian(VPLinear()), 0.4, 0.0)
    np.testing.assert_allclose(x, jnp.clip(jnp.tanh(3 * X), -0.5, 0.5), atol=1e-5)


def test_euler_maruyama_is_the_published_step():
    """SiT's step in its clock, tau = 1 - t: x + (v + w s) dtau + sqrt(2 w dtau) z."""
    w, time, dtau = 0.7, 0.6, 0.1
    at = FLOW.path(jnp.asarray(time))
    x_0 = jnp.tanh(3 * X)
    noise = (X - at.alpha * x_0) / at.sigma
    drift = (x_0 - noise) + w * (-noise / at.sigma)
    expected = X + drift * dtau + jnp.sqrt(2 * w * dtau) * normal(KEYS, X)
    x = step(EulerMaruyama(Constant(w)), FLOW, time, time - dtau)
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_last_step_of_euler_maruyama():
    """No noise; "euler" follows the ODE, "tweedie" is x_0, "mean" keeps the score."""
    act = lambda kind: step(  # noqa: E731
        EulerMaruyama(Constant(0.5), kind), FLOW, 0.2, 0.0, last=True
    )
    x_0 = jnp.tanh(3 * X)
    noise = (X - 0.8 * x_0) / 0.2
    np.testing.assert_allclose(act("tweedie"), x_0, atol=1e-6)
    np.testing.assert_allclose(act("euler"), X - 0.2 * (noise - x_0), atol=1e-5)
    np.testing.assert_allclose(
        act("mean"), act("euler") - 0.2 * 0.5 * noise / 0.2, atol=1e-4
    )


def test_diffusion_coefficients():
    """SiT's choices in its own clock, tau = 1 - t."""
    t, tau = jnp.asarray(0.3), 0.7
    flow, cosine = FLOW, Gaussian(GVP())
    assert float(Constant(2.0)(flow, t)) == pytest.approx(2)
    assert float(SigmaDiffusion(2.0)(cosine, t)) == pytest.approx(
        2 * np.cos(np.pi / 2 * tau), abs=1e-5
    )
    assert float(LinearDiffusion()(flow, t)) == pytest.approx(1 - tau)
    assert float(Decreasing()(flow, t)) == pytest.approx(
        0.25 * (np.cos(np.pi * tau) + 1) ** 2, abs=1e-6
    )
    assert float(IncreasingDecreasing()(flow, t)) == pytest.approx(
        np.sin(np.pi * tau) ** 2, abs=1e-6
    )
    assert float(SBDM()(flow, t)) == pytest.approx(0.3**2 / tau + 0.3, rel=1e-5)
    beta = 0.1 + 0.3 * 19.9
    assert float(SBDM()(Gaussian(VPLinear()), t)) == pytest.approx(beta / 2, rel=1e-4)
    assert np.isfinite(SBDM()(flow, jnp.asarray(1.0)))


def test_no_diffusion_is_the_ode():
    np.testing.assert_allclose(
        step(EulerMaruyama(Constant(0.0)), FLOW, 0.8, 0.5),
        step(Euler(), FLOW, 0.8, 0.5),
        atol=1e-6,
    )


@pytest.mark.parametrize("z", [-20.0, -1.0, -0.9999, -0.3, -1e-3, 0.0])
def test_phi_is_accurate_on_both_sides_of_its_switch(z):
    """phi_k(z) is the integral of exp((1 - s) z) s^(k - 1) / (k - 1)! over [0, 1]."""
    s = (np.arange(20000) + 0.5) / 20000
    for k in (2, 3):
        integral = np.mean(np.exp((1 - s) * z) * s ** (k - 1)) / (k - 1)
        np.testing.assert_allclose(_phi(k, jnp.asarray(z)), integral, rtol=1e-5)


def test_a_denoiser_that_knows_x_0_is_exact_in_one_step():
    """If x_0 is one point, every deterministic exponential solver jumps to it."""

    class Point:
        process = FLOW

        def init(self, x_t, conditions):
            return ()

        def __call__(self, x_t, time, conditions, memory, evaluation):
            x_0 = jnp.full_like(x_t, 0.25)
            solved = FLOW.solve(x_0, x_t, time, source="x_0")
            return Prediction(x_0, solved.noise), memory

    for solver in (DDIM(), DPMSolverPP2M(), UniPC(), Euler(), DDPM()):
        for steps in (1, 3):
            times = jnp.linspace(1, 0, steps + 1)
            with jax.disable_jit():
                x = integrate(Point(), FLOW, X, {}, times, solver, KEYS)
            np.testing.assert_allclose(x, 0.25, atol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DDIM(eta=1.5), "eta is 1.5"),
        (lambda: DDIM(clip=-1.0), "clip is -1.0"),
        (lambda: DDPM(clip=0.0), "clip is 0.0"),
        (lambda: UniPC("bh3"), "step_size is 'bh3'"),
        (lambda: EulerMaruyama(last="none"), "last is 'none'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
