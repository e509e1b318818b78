# SPDX-License-Identifier: Apache-2.0
"""I3D: an Inception of videos, whose class scores the Frechet video distance compares.

Carreira and Zisserman, 2017 (arXiv 1705.07750, figure 3): Inception-v1 whose kernels
were inflated in time, trained on Kinetics-400; each convolution with a batch norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import reduce
from jax import lax

from jdit.linear import contract
from jdit.typing import Array, Float, Key, Params

Sizes = tuple[int, int, int]

_HEAD: Sizes = (2, 7, 7)
"""Of the last mean pooling: frames, rows, columns."""


class Conv(NamedTuple):
    """A convolution without bias, a batch norm and a ReLU. size, stride: `t h w`."""

    features: int
    size: Sizes = (1, 1, 1)
    stride: Sizes = (1, 1, 1)

    def init(self, key: Key, inputs: int) -> Params:
        shape = (*self.size, inputs, self.features)
        ones, zeros = jnp.ones(self.features), jnp.zeros(self.features)
        kernel = nn.initializers.he_normal()(key, shape)
        return dict(kernel=kernel, scale=ones, bias=zeros, mean=zeros, variance=ones)

    def __call__(self, params: Params, x: Array, added: float) -> Array:
        y = lax.conv_general_dilated(
            x,
            params["kernel"],
            self.stride,
            "SAME",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            precision=lax.Precision.HIGHEST,  # a score must not depend on the device
        )
        scale = params["scale"] / jnp.sqrt(params["variance"] + added)
        return nn.relu((y - params["mean"]) * scale + params["bias"])


class Mixed(NamedTuple):
    """Four branches side by side: 1, 1 and 3, 1 and 3, pooling and 1 (a cube each)."""

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int

    @property
    def features(self) -> int:
        return self.b0 + self.b1b + self.b2b + self.b3b

    def convolutions(self) -> dict[str, Conv]:
        cubes = {"b1b", "b2b"}
        sizes = {
            name: (3, 3, 3) if name in cubes else (1, 1, 1) for name in self._fields
        }
        return {name: Conv(getattr(self, name), sizes[name]) for name in self._fields}

    def init(self, key: Key, inputs: int) -> Params:
        keys = jax.random.split(key, len(self))
        before = dict(b1b=self.b1a, b2b=self.b2a)
        return {
            name: conv.init(k, before.get(name, inputs))
            for k, (name, conv) in zip(keys, self.convolutions().items(), strict=True)
        }

    def __call__(self, params: Params, x: Array, added: float) -> Array:
        convs = self.convolutions()

        def run(name: str, x: Array) -> Array:
            return convs[name](params[name], x, added)

        branches = [
            run("b0", x),
            run("b1b", run("b1a", x)),
            run("b2b", run("b2a", x)),
            run("b3b", _pool(x, (3, 3, 3), (1, 1, 1))),
        ]
        return jnp.concatenate(branches, -1)


class Pool(NamedTuple):
    """The largest of neighbours. size, stride: `t h w`."""

    size: Sizes
    stride: Sizes

    def __call__(self, params: Params, x: Array, added: float) -> Array:
        return _pool(x, self.size, self.stride)


_STAGES: dict[str, Conv | Mixed | Pool] = {
    "Conv3d_1a_7x7": Conv(64, (7, 7, 7), (2, 2, 2)),
    "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": Conv(64),
    "Conv3d_2c_3x3": Conv(192, (3, 3, 3)),
    "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": Mixed(64, 96, 128, 16, 32, 32),
    "Mixed_3c": Mixed(128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": Pool((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": Mixed(192, 96, 208, 16, 48, 64),
    "Mixed_4c": Mixed(160, 112, 224, 24, 64, 64),
    "Mixed_4d": Mixed(128, 128, 256, 24, 64, 64),
    "Mixed_4e": Mixed(112, 144, 288, 32, 64, 64),
    "Mixed_4f": Mixed(256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": Pool((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": Mixed(256, 160, 320, 32, 128, 128),
    "Mixed_5c": Mixed(384, 192, 384, 48, 128, 128),
}


@dataclass(frozen=True)
class InceptionI3D:
    """The network alone: no resizing, no weights (`jdit.interop.i3d` reads them).

    classes: 400 of Kinetics. added: what is added to a variance: 0.001 in DeepMind's
    graph and in pytorch-i3d, 0.00001 in VideoGPT's copy of it.
    """

    classes: int = 400
    added: float = 1e-3

    @property
    def features(self) -> int:
        """The width of what `apply` gives."""
        return self.classes

    @staticmethod
    def convolutions() -> Iterator[str]:
        """The path of each convolution's parameters."""
        for name, stage in _STAGES.items():
            if isinstance(stage, Conv):
                yield name
            elif isinstance(stage, Mixed):
                yield from (f"{name}/{inner}" for inner in stage.convolutions())

    def init(self, key: Key) -> Params:
        """Random parameters."""
        keys = iter(jax.random.split(key, len(_STAGES) + 1))
        params: Params = {}
        width = 3
        for name, stage in _STAGES.items():
            if not isinstance(stage, Pool):
                params[name], width = stage.init(next(keys), width), stage.features
        kernel = nn.initializers.lecun_normal()(next(keys), (width, self.classes))
        return params | {"logits": {"kernel": kernel, "bias": jnp.zeros(self.classes)}}

    def apply(
        self, params: Params, x: Float[Array, "b t h w 3"]
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """Class scores before the softmax, and what each block gives, by name.

        Scores are averaged over time, and over space where there are several.

        x: videos in [-1, 1], 224 by 224 as the network was trained.

        Raises ValueError for fewer than 9 frames or 193 pixels, or other channels.
        """
        least = x.ndim == 5 and x.shape[1] >= 9 and min(x.shape[2:4]) >= 193
        if not least or x.shape[-1] != 3:
            raise ValueError(
                f"x has shape {x.shape}, but it must be (batch, frames, height, width, "
                "3) with at least 9 frames of 193 by 193"
            )
        taps = {}
        for name, stage in _STAGES.items():
            x = taps[name] = stage(params.get(name, {}), x, self.added)
        x = nn.avg_pool(x, _HEAD, (1, 1, 1), "VALID")
        head = params["logits"]
        with jax.default_matmul_precision("highest"):
            y = contract(x, head["kernel"]) + head["bias"]
        return reduce(y, "b t h w k -> b k", "mean"), taps


def _pool(x: Array, size: Sizes, stride: Sizes) -> Array:
    return nn.max_pool(x, size, stride, "SAME")
