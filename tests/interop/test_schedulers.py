# SPDX-License-Identifier: Apache-2.0
"""Scheduler folders: what they mean, and what they may not say."""

import json
from math import exp

import pytest

from jdit.interop import scheduler_from_diffusers
from jdit.processes import DDPMLinear, Linear
from jdit.solvers import DDIM, DPMSolverPP2M, Euler, Leading, Linspace, Shifted, Uniform

FLOW = "FlowMatchEulerDiscreteScheduler"
DPM = "DPMSolverMultistepScheduler"


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
