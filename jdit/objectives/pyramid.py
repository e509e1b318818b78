# SPDX-License-Identifier: Apache-2.0
"""The denoising loss of a network that predicts at several resolutions."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from einops import reduce

from jdit.objectives.base import Network, ask
from jdit.objectives.times import TimeSampling, UniformTime
from jdit.processes import Gaussian
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class Pyramid:
    """The weighted sum of the errors of all resolutions (DiMR's published code).

    The network's `taps["coarse"]` are predictions at lower resolutions, from the lowest
    on, and each is compared with the target averaged over the pixels it stands for,
    times their number along one axis, so that noise keeps its variance.

    times: the distribution of training times. weights: of the resolutions, from the
    lowest to the prediction itself.
    """

    times: TimeSampling = UniformTime()
    weights: tuple[float, ...] = (0.25, 1.0)

    def parameters(self, key: Key, model: Any) -> Params:
        return {}

    def __call__(
        self,
        key: Key,
        network: Network,
        params: Params,
        process: Gaussian,
        x_0: Float[Array, "b *g c"],
        conditions: Conditions,
    ) -> tuple[Float[Array, " b"], dict[str, Array]]:
        time, _, truth, out = ask(key, self.times, network, process, x_0, conditions)
        predictions = (*out.taps["coarse"], out.prediction)
        if len(predictions) != len(self.weights):
            raise ValueError(
                f"weights has {len(self.weights)} entries, but the network predicts "
                f"at {len(predictions)} resolutions"
            )
        target = process.express(truth, time, to=process.target)
        total, errors = jnp.zeros(x_0.shape[0]), []
        for weight, prediction in zip(self.weights, predictions, strict=True):
            error = jnp.square(prediction - pooled(target, prediction.shape[1]))
            errors.append(error.mean((1, 2, 3)))
            total = total + weight * errors[-1]
        return total, {"error": errors[-1].mean()}


def pooled(x: Float[Array, "b h w c"], rows: int) -> Float[Array, "b y x c"]:
    """Means over squares of pixels, times the square's side; `rows` of them."""
    side = x.shape[1] // rows
    return side * reduce(x, "b (h p) (w q) c -> b h w c", "mean", p=side, q=side)
