# SPDX-License-Identifier: Apache-2.0
"""The denoising loss: a time, a weight, a squared error."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jdit.objectives.base import Network
from jdit.processes import Gaussian
from jdit.typing import Array, Conditions, Float, Key, Params


class TimeSampling(Protocol):
    """The distribution of training times."""

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]: ...


class Weighting(Protocol):
    """How much the squared error of the process's own target counts at each time."""

    def __call__(self, process: Gaussian, time: Float[Array, " b"]) -> Array: ...


@dataclass(frozen=True)
class UniformTime:
    """Every time in (0, 1] is equally likely."""

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return 1 - jax.random.uniform(key, shape)


@dataclass(frozen=True)
class UniformWeight:
    """Weight 1: the plain squared error of the network's output."""

    def __call__(self, process: Gaussian, time: Float[Array, " b"]) -> Array:
        return jnp.ones_like(time)


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
        time_key, noise_key = jax.random.split(key)
        time = self.times(time_key, (x_0.shape[0],))
        x_t, truth = process.corrupt(noise_key, x_0, time)
        output = network(process.scale(x_t, time), time, conditions)
        target = process.express(truth, time, to=process.target)
        prediction = output.prediction[..., : x_0.shape[-1]].astype(jnp.float32)
        error = jnp.square(prediction - target)
        error = error.reshape(len(error), -1).mean(-1)
        return self.weighting(process, time) * error, {"error": error.mean()}
