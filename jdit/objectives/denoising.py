# SPDX-License-Identifier: Apache-2.0
"""The denoising loss: a time, a weight, a squared error; and DiT's, with its bound."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from jdit.objectives.base import Network, ask
from jdit.objectives.times import DiscreteTime, TimeSampling, UniformTime
from jdit.objectives.weightings import UniformWeight, Weighting
from jdit.processes import Discrete, Gaussian, Prediction, vlb
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class Denoising:
    """`weight(t) |network(x_t, t) - target|^2`, averaged over each example.

    times: the distribution of training times; weighting: see `Weighting`.
    """

    times: TimeSampling = UniformTime()
    weighting: Weighting = UniformWeight()

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
        error = squared_error(process, out.prediction, truth, time)
        return self.weighting(process, time) * error, {"error": error.mean()}


@dataclass(frozen=True)
class DenoisingVLB:
    """DiT's loss: the squared error, plus the bound's term for the learned variance.

    Indices of the process's chain are drawn uniformly. The bound is in bits and sees
    the prediction with its gradient stopped, so that it trains the variance alone
    (Improved DDPM, section 3.1, L_hybrid). There the *sum* of the terms counts 0.001;
    for one term in `steps` that is `steps / 1000`, and 1 in DiT, whose chain has 1,000.

    weight: of the bound's term. weighting: of the squared error.

    Raises ValueError unless the path is discrete and the network predicts a variance.
    """

    weight: float = 1.0
    weighting: Weighting = UniformWeight()

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
        path = process.path
        if not isinstance(path, Discrete):
            raise ValueError(
                f"process has the path {path}, but DenoisingVLB needs a discrete one, "
                "e.g. jdit.processes.DDPMLinear()"
            )
        times = DiscreteTime(path.steps)
        time, x_t, truth, out = ask(key, times, network, process, x_0, conditions)
        next_time = path.time(jnp.round(time * path.steps) - 2)
        error = squared_error(process, out.prediction, truth, time)

        frozen = process.predict(out.prediction, x_t, time)
        frozen = frozen._replace(
            x_0=lax.stop_gradient(frozen.x_0), noise=lax.stop_gradient(frozen.noise)
        )
        bits = vlb(path, x_0, x_t, frozen, time, next_time)
        losses = self.weighting(process, time) * error + self.weight * bits
        return losses, {"error": error.mean(), "vlb": bits.mean()}


def squared_error(
    process: Gaussian,
    output: Float[Array, "b *g e"],
    truth: Prediction,
    time: Float[Array, " b"],
) -> Float[Array, " b"]:
    """Of the network's output against its target, averaged over each example.

    Channels of the output beyond the data's are not compared: a learned variance.
    """
    target = process.express(truth, time, to=process.target)
    output = output[..., : target.shape[-1]].astype(jnp.float32)
    error = jnp.square(output - target)
    return error.reshape(len(error), -1).mean(-1)
