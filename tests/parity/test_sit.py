# SPDX-License-Identifier: Apache-2.0
"""SiT through its own sampler: weights, noise and labels to the official latents.

The arrays were stored on 2026-11-21 from willisma/SiT 947f95b (models.py, transport/)
with timm's three layers written anew and torchdiffeq 0.2.5: guidance 4 on the first
three channels, as published. The SDE's noise is that of this library's keys.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stored import cases, last, write

from jdit.guidance import CFG
from jdit.interop import load_sit
from jdit.processes import GVP, Gaussian, Linear
from jdit.sample import sample
from jdit.solvers import Euler, EulerMaruyama, Heun, Uniform

pytestmark = pytest.mark.parity

CASE = cases("sit")["sit"]
PATHS = {"linear": Linear(), "gvp": GVP()}
SAMPLERS = {
    "ode euler 12": (12, Euler(), Uniform()),
    "ode dopri5": (200, Heun(), Uniform()),  # any fine integration ends there
    "sde mean 12": (12, EulerMaruyama(last="mean"), Uniform(last=0.04)),
    "sde euler 12": (12, EulerMaruyama(last="euler"), Uniform(last=0.04)),
    "sde tweedie 12": (12, EulerMaruyama(last="tweedie"), Uniform(last=0.04)),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("sit"), CASE)
    return load_sit(path, heads=2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents(loaded, path, sampler):
    model, params = loaded
    steps, solver, grid = SAMPLERS[sampler]
    draw = partial(
        sample, model=model, process=Gaussian(PATHS[path], "velocity"), steps=steps,
        solver=solver, grid=grid, guidance=CFG(4.0, channels=3),
    )  # fmt: skip
    given = {"label": jnp.asarray(CASE["label"])}
    run = jax.jit(
        lambda key, params, x: draw(key, params=params, conditions=given, x_T=x)
    )
    out = run(jax.random.key(7), params, jnp.asarray(last(CASE["x"])))
    want = last(CASE[f"{path} {sampler}"])
    print(
        f"{path} {sampler}: {np.abs(out - want).max():.1e} of {np.abs(want).max():.2f}"
    )
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(out, want, atol=1e-3)
