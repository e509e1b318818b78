# SPDX-License-Identifier: Apache-2.0
"""diffusers' scheduler configs, as the process, solver and grid they mean."""

from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jdit.conditioning import Clock
from jdit.interop.diffusers import process_from_diffusers
from jdit.interop.files import read_json
from jdit.processes import (
    FixedSmall,
    Gaussian,
    LearnedRange,
    Linear,
    Variance,
    ZeroTerminal,
)
from jdit.solvers import (
    DDIM,
    DDPM,
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    Euler,
    Grid,
    Leading,
    Linspace,
    Respaced,
    Shifted,
    Solver,
    Stretched,
    Trailing,
    Uniform,
    UniPC,
)
from jdit.typing import Array, Float


class Scheduler(NamedTuple):
    """How a published pipeline samples: what was trained, and how it is integrated."""

    process: Gaussian
    solver: Solver
    grid: Grid

    @property
    def tells_whole_numbers(self) -> bool:
        """Whether diffusers tells the network a flow's time in whole thousandths."""
        multistep = isinstance(self.solver, DPMSolverPP2M | UniPC)
        return multistep and self.process.target == "velocity"


@dataclass(frozen=True)
class WholeClock:
    """Another clock, of time cut to thousandths, as diffusers' multistep flows do."""

    inner: Clock

    def __call__(self, time: Float[Array, " b"]) -> Float[Array, " b"]:
        return self.inner(jnp.floor(1000 * time + 1e-3) / 1000)


_FLOW: dict[str, Any] = dict(
    num_train_timesteps=1000,
    shift=1.0,
    use_dynamic_shifting=False,
    base_shift=0.5,
    max_shift=1.15,
    base_image_seq_len=256,
    max_image_seq_len=4096,
    shift_terminal=None,
    time_shift_type="exponential",
)
"""The fields of a flow scheduler that count, with diffusers' defaults."""

_MULTISTEP: dict[str, Any] = dict(
    num_train_timesteps=1000,
    solver_order=2,
    algorithm_type="dpmsolver++",
    predict_x0=True,
    solver_type=None,
    final_sigmas_type="zero",
    timestep_spacing="linspace",
    steps_offset=0,
    use_flow_sigmas=False,
    flow_shift=1.0,
)
"""The same for the multistep solvers."""

_OFF = (
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "stochastic_sampling",
    "thresholding",
    "euler_at_final",
    "clip_sample",
)
"""Fields that change what is computed, and are supported as null or false alone."""


def scheduler_from_diffusers(
    folder: str | Path, *, tokens: int | None = None, sigmas: bool = False
) -> Scheduler:
    """What the scheduler of a diffusers pipeline's folder does.

    folder: of the pipeline, or of its scheduler.
    tokens: of one image, for schedulers that shift by it ("dynamic shifting").
    sigmas: whether the pipeline hands `linspace(1, 1 / steps, steps)` to the scheduler
        (as Flux and Qwen-Image do) or leaves the levels to it (as SD3 does).

    Raises FileNotFoundError, and ValueError naming a field that cannot be honoured.
    Source: diffusers 0.42, schedulers/.
    """
    folder = Path(folder)
    places = [folder / "scheduler", folder]
    paths = [place / "scheduler_config.json" for place in places]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no scheduler/scheduler_config.json")
    config = read_json(path)
    name = str(config.get("_class_name"))
    cog = name.startswith("CogVideoX")
    for field in (*_OFF, *(() if cog else ("rescale_betas_zero_snr",))):
        if config.get(field):
            raise ValueError(
                f"{path} sets {field} to {config[field]!r}, but only false is supported"
            )
    match name:
        case "FlowMatchEulerDiscreteScheduler":
            values = {k: config.get(k, v) for k, v in _FLOW.items()}
            grid = _flow_grid(path, values, tokens, sigmas)
            return Scheduler(Gaussian(Linear(), "velocity"), Euler(), grid)
        case "DPMSolverMultistepScheduler" | "UniPCMultistepScheduler" as name:
            return _multistep(path, config, name)
        case "CogVideoXDDIMScheduler" | "CogVideoXDPMScheduler":
            return _cogvideox(path, config)
        case "DDIMScheduler":
            process, grid = process_from_diffusers(path.parent), _spaced(path, config)
            _ends_at_data(path, config)
            return Scheduler(process, DDIM(), grid)
        case "DDPMScheduler":
            process, grid = process_from_diffusers(path.parent), _spaced(path, config)
            kind = config.get("variance_type", "fixed_small")
            kinds: dict[str, Variance] = dict(
                fixed_small=FixedSmall(), learned_range=LearnedRange()
            )
            if kind not in kinds:
                raise ValueError(
                    f"{path} has variance_type {kind!r}, but it must be one of "
                    f"{', '.join(kinds)}"
                )
            return Scheduler(process, DDPM(kinds[kind]), grid)
        case _:
            raise ValueError(
                f"{path} is of a {name}, but supported are FlowMatchEulerDiscrete, "
                "DPMSolverMultistep, UniPCMultistep, DDIM, DDPM, CogVideoXDDIM and "
                "CogVideoXDPM schedulers"
            )


def dynamic_shift(config: dict[str, Any], tokens: int) -> float:
    """The shift of an image of so many tokens: its logarithm is linear in them."""
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (high - low)
    mu = config["base_shift"] + slope * (tokens - low)
    return exp(mu) if config["time_shift_type"] == "exponential" else mu


def _flow_grid(
    path: Path, config: dict[str, Any], tokens: int | None, sigmas: bool
) -> Grid:
    least = 1 / config["num_train_timesteps"]
    if config["use_dynamic_shifting"]:
        if tokens is None:
            raise ValueError(
                f"tokens is missing: {path} shifts times by the number of an image's "
                "tokens"
            )
        shift = dynamic_shift(config, tokens)
    else:
        shift = config["shift"]
        least = shift * least / (1 + (shift - 1) * least)  # diffusers shifts it twice
    grid: Grid = Shifted(shift, Uniform() if sigmas else Uniform(last=least))
    if config["shift_terminal"]:
        grid = Stretched(config["shift_terminal"], grid)
    return grid


def _multistep(path: Path, config: dict[str, Any], name: str) -> Scheduler:
    values = {key: config.get(key, default) for key, default in _MULTISTEP.items()}
    dpm = name.startswith("DPM")
    kinds = ("midpoint",) if dpm else ("bh2", "bh1")
    accepted = dict(
        solver_order=(2,),
        algorithm_type=("dpmsolver++",),
        predict_x0=(True,),
        solver_type=(None, *kinds),
        final_sigmas_type=("zero",),
    )
    for field, allowed in accepted.items():
        if values[field] not in allowed:
            raise ValueError(
                f"{path} has {field} {values[field]!r}, but supported is "
                f"{' or '.join(repr(x) for x in allowed if x is not None)}"
            )
    bh = "bh1" if values["solver_type"] == "bh1" else "bh2"
    solver: Solver = DPMSolverPP2M() if dpm else UniPC(bh)  # type: ignore[arg-type]
    if not values["use_flow_sigmas"]:
        return Scheduler(
            process_from_diffusers(path.parent), solver, _spaced(path, config)
        )
    shift, least = values["flow_shift"], 1 / values["num_train_timesteps"]
    # Both begin just below 1, where log alpha is finite; UniPC 1e-6 after the shift.
    even = Uniform(1 - least) if dpm else Uniform(1 - 1e-6 * shift, least=least)
    return Scheduler(Gaussian(Linear(), "velocity"), solver, Shifted(shift, even))


def _cogvideox(path: Path, config: dict[str, Any]) -> Scheduler:
    dpm = config["_class_name"] == "CogVideoXDPMScheduler"
    _ends_at_data(path, config)
    for field, default, wanted in (
        ("rescale_betas_zero_snr", False, True),
        ("prediction_type", "epsilon", "v_prediction"),
        ("beta_schedule", "scaled_linear", "scaled_linear"),
        ("trained_betas", None, None),
    ):
        if config.get(field, default) != wanted:
            raise ValueError(
                f"{path} has {field} {config.get(field, default)!r}, but only "
                f"{wanted!r} is supported, with which CogVideoX was trained"
            )
    if config.get("clip_sample", True):
        raise ValueError(f"{path} sets clip_sample, but only false is supported")
    chain = ZeroTerminal(
        config.get("num_train_timesteps", 1000),
        config.get("beta_start", 0.00085),
        config.get("beta_end", 0.012),
        float(config.get("snr_shift_scale", 3.0)),
        least=1e-12,
    )
    solver: Solver = DPMSolverPP2MSDE() if dpm else DDIM()
    return Scheduler(Gaussian(chain, "v"), solver, _spaced(path, config))


def _ends_at_data(path: Path, config: dict[str, Any]) -> None:
    if not config.get("set_alpha_to_one", True):
        raise ValueError(
            f"{path} sets set_alpha_to_one to False, but sampling here ends at the "
            "data: only true is supported"
        )


def _spaced(path: Path, config: dict[str, Any]) -> Grid:
    total = config.get("num_train_timesteps", 1000)
    name = config["_class_name"]
    multistep = name.endswith("MultistepScheduler")
    spacing = config.get("timestep_spacing", "linspace" if multistep else "leading")
    match spacing:
        case "linspace" if multistep:
            return Linspace(total)
        case "linspace" if name.startswith("CogVideoX"):
            return Respaced(total)  # diffusers' own steps end an index beside some
        case "trailing":
            return Trailing(total)
        case "leading" if not multistep:
            return Leading(total, config.get("steps_offset", 0))
    raise ValueError(
        f"{path} has timestep_spacing {spacing!r}, which is not supported for {name}"
    )
