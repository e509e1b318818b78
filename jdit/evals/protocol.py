# SPDX-License-Identifier: Apache-2.0
"""How a score came about: one line that says everything that moves it."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.checkpoint import named
from jdit.objects import to_json
from jdit.processes import Gaussian, Prediction
from jdit.sample import follow, image_keys
from jdit.typing import Array, Conditions, Memory, Params

Protocol = dict[str, Any]
"""Field by field; strings, numbers and None."""

PACKAGES = ("jdit", "jax", "jaxlib", "flax", "numpy", "scipy", "pillow")


def part_hash(part: Any) -> str:
    """12 digits of the SHA-256 of a part's JSON form: its class and every field."""
    text = json.dumps(to_json(part, strict=False), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def params_hash(params: Params) -> str:
    """12 digits of the SHA-256 of all arrays, by name, dtype, shape and content.

    Of what draws images: what only training needs ("objective") is left out.
    """
    digest = hashlib.sha256()
    kept = {name: tree for name, tree in params.items() if name != "objective"}
    for name, array in sorted(named(kept).items()):
        values = np.asarray(array)
        digest.update(f"{name} {values.dtype.name} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Counting:
    """A denoiser that predicts nothing, and remembers how many rows it was shown."""

    process: Gaussian

    def init(self, x_t: Array, conditions: Conditions) -> Memory:
        return jnp.zeros((), jnp.int32)

    def null(self, conditions: Conditions) -> Conditions:
        return conditions

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: Memory,
        evaluation: Array,
    ) -> tuple[Prediction, Memory]:
        nothing = jnp.zeros_like(x_t)
        return Prediction(nothing, nothing, nothing), memory + len(x_t)


def passes(process: Gaussian, sampling: Any, *, guided: bool = True) -> int | None:
    """How often the network sees one image: counted, not computed.

    The sampling runs with a network that only counts, so that steps of two evaluations,
    the last one that is not needed, and guidance that doubles the batch inside its
    interval are all in it. A weaker model's passes (autoguidance) count as one each.

    guided: False leaves guidance out: the solver's function evaluations. None for
    guidance that wants more of the network than a denoiser has.
    """
    inner = Counting(process)
    guidance: Any = sampling.guidance if guided else None
    if hasattr(guidance, "weak"):
        guidance = replace(guidance, weak=inner)
    times = sampling.grid(process, sampling.steps)
    x, keys = jnp.zeros((1, 1, 1, 1)), image_keys(jax.random.key(0), 1)

    def run(x: Array) -> Memory:
        denoiser = inner if guidance is None else guidance(inner)
        return follow(denoiser, process, x, {}, times, sampling.solver, keys)[1]

    try:
        return int(sum(map(int, jax.tree.leaves(jax.jit(run)(x)))))
    except (AttributeError, TypeError, ValueError):
        return None


def sampling_fields(process: Gaussian, sampling: Any) -> Protocol:
    """The solver, its times, what it costs, guidance, and a policy if there is one."""
    guidance = sampling.guidance
    weak: Any = getattr(guidance, "weak", None)
    named_above = ("scale", "interval", "weak")
    return {
        "process": _shown(process),
        "solver": _shown(sampling.solver),
        "grid": _shown(sampling.grid),
        "steps": sampling.steps,
        "evaluations": passes(process, sampling, guided=False),
        "passes": passes(process, sampling),
        "guidance": None if guidance is None else type(guidance).__name__,
        "guidance_scale": _plain(getattr(guidance, "scale", None)),
        "guidance_interval": _shown(getattr(guidance, "interval", None)),
        "guidance_rest": settings(guidance, named_above),
        "guidance_model": params_hash(weak.params) if hasattr(weak, "params") else None,
        **({} if sampling.policy is None else {"policy": _shown(sampling.policy)}),
    }


def settings(part: Any, without: tuple[str, ...] = ()) -> str | None:
    """The fields of a part but some: "rescale=0.0, channels=3"; None if it has none."""
    if not is_dataclass(part):
        return None
    named = [f.name for f in dataclasses.fields(part) if f.name not in without]
    return ", ".join(f"{name}={getattr(part, name)!r}" for name in named) or None


def machine_fields() -> Protocol:
    """Backend, precision of products, and versions: each can move a score."""
    fields: Protocol = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "matmul_precision": _precision(),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            fields[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            fields[name] = None
    return fields


def _precision() -> str:
    set_to = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return set_to or "default"


def line(protocol: Protocol) -> str:
    """The protocol in one line: `field value; field value`."""
    parts = [f"{name} {_shown(value)}" for name, value in protocol.items()]
    return "protocol: " + "; ".join(parts)


def differences(a: Protocol, b: Protocol) -> list[str]:
    """The fields in which two protocols differ, one sentence each."""
    missing = "(not said)"
    return [
        f"{name}: {_shown(a.get(name, missing))} / {_shown(b.get(name, missing))}"
        for name in dict.fromkeys([*a, *b])
        if a.get(name, missing) != b.get(name, missing)
    ]


def compare_files(first: str | Path, second: str | Path) -> tuple[list[str], list[str]]:
    """How two files of scores differ: in the protocol, and in the scores.

    Raises FileNotFoundError, and ValueError for a file without a protocol.
    """
    files = [_read(Path(path)) for path in (first, second)]
    protocols, scores = (
        [file[key] for file in files] for key in ("protocol", "scores")
    )
    return differences(*protocols), differences(*scores)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content["protocol"], dict) and isinstance(
            content["scores"], dict
        ):
            return content
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{path} has no protocol: compare what `jdit eval ... --reference` wrote"
    )


def _plain(value: Any) -> Any:
    """Numbers and texts as they are; anything else as a person reads it."""
    simple = value is None or isinstance(value, (bool, int, float, str))
    return value if simple else _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return repr(value) if is_dataclass(value) else str(value)
