# SPDX-License-Identifier: Apache-2.0
"""Scheduler folders sample as diffusers' schedulers do, levels, solver and all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.interop import scheduler_from_diffusers
from jdit.sample import image_keys, integrate

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 4, 4, 3)
FLOW = "FlowMatchEulerDiscreteScheduler"
MULTI = dict(DPM="DPMSolverMultistepScheduler", UniPC="UniPCMultistepScheduler")

CASES = {
    "flow": (FLOW, {}, {}, {}),
    "flow, shift 3 (SD3)": (FLOW, dict(shift=3.0), {}, {}),
    "flow, by tokens (Flux)": (
        FLOW,
        dict(use_dynamic_shifting=True, max_shift=1.15),
        dict(tokens=1000, sigmas=True),
        dict(mu=0.5 + 744 * 0.65 / 3840),
    ),
    "flow, stretched (Qwen-Image)": (
        FLOW,
        dict(use_dynamic_shifting=True, shift_terminal=0.02),
        dict(tokens=256, sigmas=True),
        dict(mu=0.5),
    ),
    "flow, DPM++, shift 3": (
        MULTI["DPM"],
        dict(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
        {},
        {},
    ),
    "flow, UniPC, shift 5 (Wan)": (
        MULTI["UniPC"],
        dict(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction"),
        {},
        {},
    ),
    "DPM++ (PixArt)": (MULTI["DPM"], {}, {}, {}),
    "UniPC": (MULTI["UniPC"], {}, {}, {}),
    "UniPC, trailing": (MULTI["UniPC"], dict(timestep_spacing="trailing"), {}, {}),
    "CogVideoX-2B": (
        "CogVideoXDDIMScheduler",
        dict(
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
        {},
        {},
    ),
    "DDIM": ("DDIMScheduler", dict(clip_sample=False), {}, {}),
    "DDIM, trailing": (
        "DDIMScheduler",
        dict(clip_sample=False, timestep_spacing="trailing"),
        {},
        {},
    ),
}


def network(x, timestep, xp):
    """A fixed function of x_t and what a network is told of time."""
    return 0.7 * xp.tanh(x) + 0.2 * xp.cos(3 * x) * (0.5 + timestep / 1000)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_trajectories(tmp_path, case, steps):
    name, config, ours, theirs = case
    scheduler = getattr(diffusers, name)(**config)
    scheduler.save_pretrained(tmp_path)
    x = np.asarray(jax.random.normal(jax.random.key(0), SHAPE))
    told = dict(theirs)
    if ours.get("sigmas"):
        told["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(steps, **told)
    want = torch.tensor(x)
    for t in scheduler.timesteps:
        output = network(want, t, torch)
        want = scheduler.step(output, t, want, return_dict=False)[0]

    process, solver, grid = scheduler_from_diffusers(tmp_path, **ours)
    flow = process.target == "velocity"

    class Fixed:
        def __init__(self):
            self.process = process

        def init(self, x_t, conditions):
            return ()

        def __call__(self, x_t, time, conditions, memory, evaluation):
            told = 1000 * time if flow else 1000 * time - 1
            # diffusers' multistep flows tell the network whole numbers.
            told = jnp.floor(told + 1e-3) if flow and "Multi" in name else told
            return process.predict(network(x_t, told, jnp), x_t, time), memory

    keys = image_keys(jax.random.key(1), SHAPE[0])
    times = grid(process, steps)
    out = jax.jit(lambda x: integrate(Fixed(), process, x, {}, times, solver, keys))(x)
    np.testing.assert_allclose(out, want.numpy(), atol=2e-4, rtol=2e-4)
