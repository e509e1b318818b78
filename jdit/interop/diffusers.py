# SPDX-License-Identifier: Apache-2.0
"""diffusers' DiTTransformer2DModel and DiTPipeline folders, in both directions."""

from pathlib import Path
from typing import Any

from jdit.conditioning import Labels, Sinusoids
from jdit.interop.config import open_weights, write_folder
from jdit.interop.dit import DIT_CLOCK, SIX, positions, require
from jdit.interop.files import DType, read_json
from jdit.interop.layout import Layout, Rule, linear, pack, unpack
from jdit.models.dit import DiT
from jdit.processes import DDPMCosine, DDPMLinear, DDPMScaledLinear, Gaussian, Target
from jdit.typing import Params

_BLOCK = "transformer_blocks.{}"
_EMBEDDING = f"{_BLOCK}.norm1.emb"

LAYOUT = Layout(
    "diffusers' DiTTransformer2DModel",
    (
        *linear("pos_embed.proj", "patch", "d c p q -> (p q c) d"),
        *linear(f"{_EMBEDDING}.timestep_embedder.linear_1", "time/in", repeated=True),
        *linear(f"{_EMBEDDING}.timestep_embedder.linear_2", "time/out", repeated=True),
        Rule(
            (f"{_EMBEDDING}.class_embedder.embedding_table.weight",),
            (("label/table", 1),),
            "e d -> e d",
            repeated=True,
        ),
        *linear(tuple(f"{_BLOCK}.attn1.to_{x}" for x in "qkv"), "blocks/attention/qkv"),
        *linear(f"{_BLOCK}.attn1.to_out.0", "blocks/attention/out"),
        *linear(f"{_BLOCK}.ff.net.0.proj", "blocks/mlp/in"),
        *linear(f"{_BLOCK}.ff.net.2", "blocks/mlp/out"),
        *linear(f"{_BLOCK}.norm1.linear", SIX),
        *linear("proj_out_1", "final/modulation"),
        *linear("proj_out_2", "final/linear"),
    ),
    tables={"pos_embed.pos_embed": positions},  # stored by old versions only
)

_DEFAULTS: dict[str, Any] = dict(
    num_attention_heads=16,
    attention_head_dim=72,
    in_channels=4,
    out_channels=None,
    num_layers=28,
    sample_size=32,
    patch_size=2,
    num_embeds_ada_norm=1000,
    norm_eps=1e-5,
)
"""The fields that say which model it is, with diffusers' defaults."""

_FIXED: dict[str, Any] = dict(
    activation_fn="gelu-approximate",
    attention_bias=True,
    dropout=0.0,
    norm_elementwise_affine=False,
    norm_type="ada_norm_zero",
    upcast_attention=False,
)
"""The fields that have one value in every DiT."""

_LEGACY: dict[str, Any] = dict(
    cross_attention_dim=None,
    num_vector_embeds=None,
    only_cross_attention=False,
    use_linear_projection=False,
)
"""Those of Transformer2DModel, the class of the first published folders."""

_IGNORED = ("norm_num_groups", "_class_name", "_diffusers_version", "_name_or_path")
_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")

_BETAS = dict(linear=DDPMLinear, scaled_linear=DDPMScaledLinear)
_TARGETS: dict[str, Target] = dict(epsilon="noise", sample="x_0", v_prediction="v")
_SOLVER = frozenset(
    """
    _class_name _diffusers_version _name_or_path _use_default_values
    algorithm_type clip_sample clip_sample_range disable_corrector
    dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift
    interpolation_type lambda_min_clipped lower_order_final predict_x0
    sample_max_value set_alpha_to_one sigma_max sigma_min skip_prk_steps solver_order
    solver_p solver_type steps_offset thresholding time_shift_type timestep_spacing
    timestep_type use_beta_sigmas use_exponential_sigmas use_karras_sigmas
    use_lu_lambdas variance_type
    """.split()
)
"""Fields of a scheduler's config that say how it samples, not what was trained."""


def from_diffusers(folder: str | Path) -> tuple[DiT, Params]:
    """A model and its parameters from a folder that diffusers wrote.

    folder: of a DiTTransformer2DModel (config.json and diffusion_pytorch_model
        .safetensors, whole or sharded; .bin needs torch), or of a DiTPipeline, whose
        `transformer` is read; `process_from_diffusers` reads its scheduler.

    The model computes what diffusers computes, which is not quite the published DiT:
    the frequencies of time are spaced to end at 1 / 10000 (`Sinusoids(shift=1)`), and
    the norm before the MLP adds the config's norm_eps, 1e-5 by default. For weights
    that were converted from the published ones, `dataclasses.replace(model, basis=
    Sinusoids(), eps=(1e-6, 1e-6))` computes as they were trained.

    diffusers stores the time and label embedding once per layer; they must be equal.

    Raises FileNotFoundError, and ValueError naming the config's field or the tensor
    that is unknown, missing or cannot be honoured.
    Source: diffusers 0.42, models/transformers/dit_transformer_2d.py.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "transformer").is_dir():
        folder = folder / "transformer"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json, but accepted is the folder of a diffusers "
            "DiTTransformer2DModel or DiTPipeline"
        )
    model = _model(folder / "config.json")
    return model, unpack(LAYOUT, model, open_weights(folder))


def to_diffusers(
    folder: str | Path, model: DiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write the folder of a DiTTransformer2DModel: the inverse of `from_diffusers`.

    Raises ValueError naming the field for a model that diffusers cannot express. That
    includes weights from DiT's own layout, because diffusers spaces the frequencies of
    time otherwise; `dataclasses.replace(model, basis=Sinusoids(shift=1.0))` says that
    this change of the function is wanted.
    """
    count = dict(basis=Sinusoids(256, shift=1.0), clock=DIT_CLOCK, mlp_ratio=4.0)
    eps = (1e-6, model.eps[1]) if isinstance(model, DiT) else None
    require(model, LAYOUT.name, **count, eps=eps)
    if not isinstance(model.conditioning, Labels) or not model.conditioning.dropout:
        raise ValueError(
            f"model.conditioning is {model.conditioning}, but {LAYOUT.name} always "
            "has a null class"
        )
    tensors = pack(LAYOUT, model, params)
    config = dict(
        _class_name="DiTTransformer2DModel",
        num_attention_heads=model.heads,
        attention_head_dim=model.dim // model.heads,
        in_channels=model.channels,
        out_channels=model.out_channels or model.channels,
        num_layers=model.depth,
        sample_size=model.grid[0],
        patch_size=model.tokens.size[0],
        num_embeds_ada_norm=model.conditioning.classes,
        norm_eps=model.eps[1],
        norm_num_groups=32,
        **_FIXED,
    )
    write_folder(folder, config, tensors, dtype)


def process_from_diffusers(folder: str | Path) -> Gaussian:
    """The process that a diffusers scheduler's config describes.

    folder: of a pipeline, or of a scheduler. Read are the betas and the prediction
    type; what configures diffusers' sampler (spacing, order, clipping) is left to the
    solver that is chosen here. Models of `from_diffusers` read 1000 indices.

    Raises FileNotFoundError, and ValueError naming a field that is unknown or cannot
    be honoured.
    """
    folder = Path(folder)
    places = [folder / "scheduler", folder]
    paths = [place / "scheduler_config.json" for place in places]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no scheduler/scheduler_config.json")
    config = {k: v for k, v in read_json(path).items() if k not in _SOLVER}
    steps = config.pop("num_train_timesteps", 1000)
    first, last = config.pop("beta_start", 1e-4), config.pop("beta_end", 0.02)
    schedule = config.pop("beta_schedule", "linear")
    prediction = config.pop("prediction_type", "epsilon")
    for field, value in config.items():
        if value not in (None, False):
            raise ValueError(f"{path} sets {field} to {value!r}, which is not known")
    if prediction not in _TARGETS:
        raise ValueError(
            f"{path} has prediction_type {prediction!r}, but it must be one of "
            f"{', '.join(_TARGETS)}"
        )
    if schedule == "squaredcos_cap_v2":
        return Gaussian(DDPMCosine(steps), _TARGETS[prediction])
    if schedule not in _BETAS:
        raise ValueError(
            f"{path} has beta_schedule {schedule!r}, but it must be one of "
            f"{', '.join(_BETAS)} and squaredcos_cap_v2"
        )
    scale = steps / 1000 if schedule == "linear" else 1.0  # ours is for 1000 steps
    path_ = _BETAS[schedule](steps, first * scale, last * scale)
    return Gaussian(path_, _TARGETS[prediction])


def _model(path: Path) -> DiT:
    given = read_json(path)
    if given.get("_class_name", _CLASSES[0]) not in _CLASSES:
        raise ValueError(
            f"{path} is of a {given['_class_name']}, but accepted is a {_CLASSES[0]}"
        )
    fixed = _FIXED | _LEGACY
    for field, value in given.items():
        if field in fixed and value != fixed[field]:
            raise ValueError(
                f"{path} has {field} {value!r}, but only {fixed[field]!r} is supported"
            )
        if field not in (*_DEFAULTS, *fixed, *_IGNORED):
            raise ValueError(f"{path} has the unknown field {field!r}")
    config = {field: given.get(field, default) for field, default in _DEFAULTS.items()}
    for field, value in config.items():
        kind = float if field == "norm_eps" else int
        fits = isinstance(value, kind) and not isinstance(value, bool) and value > 0
        if not fits and not (field == "out_channels" and value is None):
            raise ValueError(
                f"{path} has {field} {value!r}, but it must be a positive "
                f"{'number' if kind is float else 'whole number'}"
            )
    heads = config["num_attention_heads"]
    return DiT(
        grid=(config["sample_size"],) * 2,
        channels=config["in_channels"],
        out_channels=config["out_channels"] or config["in_channels"],
        patch=config["patch_size"],
        dim=heads * config["attention_head_dim"],
        depth=config["num_layers"],
        heads=heads,
        conditioning=Labels(config["num_embeds_ada_norm"]),
        clock=DIT_CLOCK,
        basis=Sinusoids(256, shift=1.0),
        eps=(1e-6, config["norm_eps"]),
    )
