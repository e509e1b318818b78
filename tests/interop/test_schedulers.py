# SPDX-License-Identifier: Apache-2.0
"""Scheduler folders: what they mean, and what they may not say."""

import json
from math import exp

import jax.numpy as jnp
import pytest

from jdit.conditioning import LinearClock
from jdit.interop import scheduler_from_diffusers
from jdit.interop.schedulers import WholeClock
from jdit.processes import DDPMLinear, Linear
from jdit.solvers import (
    DDIM,
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    Euler,
    Leading,
    Linspace,
    Respaced,
    Shifted,
    Trailing,
    Uniform,
)

FLOW = "FlowMatchEulerDiscreteScheduler"
DPM = "DPMSolverMultistepScheduler"
COG = dict(
    clip_sample=False,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
)


def folder(tmp_path, name, **config):
    (tmp_path / "scheduler").mkdir()
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": name, **config}))
    return tmp_path


def test_flux_shifts_by_tokens(tmp_path):
    """The published line: log shift 0.5 at 256 tokens, 1.15 at 4,096."""
    where = folder(tmp_path, FLOW, use_dynamic_shifting=True)
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):
        process, solver, grid = scheduler_from_diffusers(
            where, tokens=tokens, sigmas=True
        )
        assert process.path == Linear() and process.target == "velocity"
        assert solver == Euler() and grid.inner == Uniform()
        assert grid.shift == pytest.approx(exp(mu))


def test_chains_keep_their_betas(tmp_path):
    where = folder(tmp_path, DPM, beta_start=0.0001, beta_end=0.02)
    process, solver, grid = scheduler_from_diffusers(where)
    assert isinstance(process.path, DDPMLinear) and process.target == "noise"
    assert solver == DPMSolverPP2M() and grid == Linspace(1000)


def test_ddim_counts_from_its_offset(tmp_path):
    where = folder(tmp_path, "DDIMScheduler", steps_offset=1)
    assert scheduler_from_diffusers(where)[1:] == (DDIM(), Leading(1000, 1))


def test_static_shifts_are_shifts(tmp_path):
    grid = scheduler_from_diffusers(folder(tmp_path, FLOW, shift=3.0)).grid
    assert isinstance(grid, Shifted) and grid.shift == 3.0


@pytest.mark.parametrize("name", ["CogVideoXDDIM", "CogVideoXDPM"])
def test_cogvideox_starts_without_a_signal(tmp_path, name):
    where = folder(tmp_path, f"{name}Scheduler", snr_shift_scale=1.0, **COG)
    process, solver, grid = scheduler_from_diffusers(where)
    assert process.target == "v" and process.path.shift == 1
    assert process.path(jnp.ones(())).alpha < 1e-5
    assert solver == (DPMSolverPP2MSDE() if "DPM" in name else DDIM())
    assert grid == Trailing(1000)


def test_cogvideox_2b_counts_both_ends(tmp_path):
    config = COG | dict(timestep_spacing="linspace")
    where = folder(tmp_path, "CogVideoXDDIMScheduler", **config)
    assert scheduler_from_diffusers(where).grid == Respaced(1000)


def test_multistep_flows_tell_whole_numbers(tmp_path):
    flow = dict(use_flow_sigmas=True, prediction_type="flow_prediction")
    where = folder(tmp_path, "UniPCMultistepScheduler", **flow)
    assert scheduler_from_diffusers(where).tells_whole_numbers
    times = jnp.array([2 / 3, 0.75, 1 - 1e-6])
    told = WholeClock(LinearClock(1000.0))(times)
    assert jnp.allclose(told, jnp.array([666, 750, 999]), atol=1e-3)


@pytest.mark.parametrize(
    "name, config, words",
    [
        (FLOW, dict(use_dynamic_shifting=True), "tokens is missing"),
        (FLOW, dict(use_karras_sigmas=True), "use_karras_sigmas to True"),
        (DPM, dict(solver_order=3), "solver_order 3, but supported is 2"),
        (DPM, dict(final_sigmas_type="sigma_min"), "final_sigmas_type 'sigma_min'"),
        (DPM, dict(timestep_spacing="leading"), "timestep_spacing 'leading'"),
        ("DDIMScheduler", dict(set_alpha_to_one=False), "set_alpha_to_one to False"),
        ("DDPMScheduler", dict(variance_type="learned"), "variance_type 'learned'"),
        ("CogVideoXDDIMScheduler", COG | dict(clip_sample=True), "clip_sample"),
        ("CogVideoXDPMScheduler", {}, "rescale_betas_zero_snr False, but only True"),
        ("LCMScheduler", {}, "of a LCMScheduler, but supported are"),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x) or "none",
)
def test_what_cannot_be_honoured_is_named(tmp_path, name, config, words):
    with pytest.raises(ValueError, match=words):
        scheduler_from_diffusers(folder(tmp_path, name, **config))


def test_a_folder_without_scheduler_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no scheduler/scheduler_config.json"):
        scheduler_from_diffusers(tmp_path)
