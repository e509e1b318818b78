# SPDX-License-Identifier: Apache-2.0
"""LPIPS: how different two images look to a network trained for something else."""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.conv import Conv
from jdit.linear import call
from jdit.typing import Array, Float, Key, Params

SHIFT = (-0.030, -0.088, -0.188)
"""ImageNet's mean for images in [-1, 1], as the published code rounds it."""

SCALE = (0.458, 0.448, 0.450)


class Stage(NamedTuple):
    """Convolutions with a ReLU each, after a max pooling; the last is compared.

    convs: of each the channels, the size of the kernel, the stride and the padding.
    pool: the window of the pooling, whose stride is 2; None in the first.
    """

    convs: tuple[tuple[int, int, int, int], ...]
    pool: int | None = None


@dataclass(frozen=True)
class LPIPS:
    """The distance of Zhang et al., 2018 (equation 1), version 0.1.

    sum_l mean_hw sum_c w_lc (a_lhwc - b_lhwc)^2

    over the stages l of a trunk, whose features a, b have length 1 over channels; w is
    trained on human judgements and not negative. `jdit.interop.lpips` reads the
    published weights. Compares with LPIPS of the same trunk only.

    stages: of the trunk: `lpips_alex` or `lpips_vgg`.
    """

    stages: tuple[Stage, ...]

    def init(self, key: Key) -> Params:
        """Random parameters; all heads are 1."""
        keys = iter(jax.random.split(key, sum(len(s.convs) for s in self.stages)))
        trunk: Params = {}
        inputs = 3
        for i, stage in enumerate(self.stages):
            for j, (features, size, *_) in enumerate(stage.convs):
                x = jnp.zeros((1, size, size, inputs))
                conv = Conv(features, size)
                trunk[f"{i}_{j}"] = conv.init(next(keys), x)["params"]
                inputs = features
        heads = {
            f"{i}": jnp.ones(stage.convs[-1][0]) for i, stage in enumerate(self.stages)
        }
        return {"trunk": trunk, "heads": heads}

    def features(self, params: Params, x: Float[Array, "b h w 3"]) -> list[Array]:
        """What is compared of each stage, at length 1 over channels."""
        x = (x.astype(jnp.float32) - jnp.array(SHIFT)) / jnp.array(SCALE)
        taps = []
        for i, stage in enumerate(self.stages):
            if stage.pool is not None:
                x = nn.max_pool(x, (stage.pool, stage.pool), (2, 2), "VALID")
            for j, (features, size, stride, around) in enumerate(stage.convs):
                conv = Conv(features, size, stride, (around, around))
                x = nn.relu(call(conv, params["trunk"][f"{i}_{j}"], x))
            # below 1e-20 the published quotient is 0 too, and this has a gradient
            length = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True).clip(1e-20))
            taps.append(x / (length + 1e-10))
        return taps

    def apply(
        self, params: Params, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, " b"], Float[Array, "l b"]]:
        """The distance of each pair of images in [-1, 1], and the part of each stage.

        Raises ValueError for images of unequal or other shapes.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
            raise ValueError(
                f"the images have shapes {a.shape} and {b.shape}, but both must be "
                "(batch, height, width, 3)"
            )
        with jax.default_matmul_precision("highest"):
            taps = [self.features(params, x) for x in (a, b)]
        parts = [
            (jnp.square(one - other) * params["heads"][f"{i}"]).sum(-1).mean((1, 2))
            for i, (one, other) in enumerate(zip(*taps, strict=True))
        ]
        stages = jnp.stack(parts)
        return stages.sum(0), stages


def lpips_alex() -> LPIPS:
    """Over AlexNet (Krizhevsky, 2014), the one that papers compare by."""
    return LPIPS(
        (
            Stage(((64, 11, 4, 2),)),
            Stage(((192, 5, 1, 2),), 3),
            Stage(((384, 3, 1, 1),), 3),
            Stage(((256, 3, 1, 1),)),
            Stage(((256, 3, 1, 1),)),
        )
    )


def lpips_vgg() -> LPIPS:
    """Over VGG-16 (Simonyan and Zisserman, 2015), the one that losses use."""
    sizes = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    stages = [Stage(((c, 3, 1, 1),) * count, 2) for c, count in sizes]
    return LPIPS((stages[0]._replace(pool=None), *stages[1:]))
