# SPDX-License-Identifier: Apache-2.0
"""What an objective is, and the loss of a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from jdit.objectives.times import TimeSampling
from jdit.processes import Gaussian, Prediction
from jdit.typing import Array, Conditions, Float, Key, Params

Network = Callable[[Array, Array, Conditions], Any]
"""The model with its parameters closed over: (x_t, time, conditions) -> Output."""


class Objective(Protocol):
    """A loss per example; it may own parameters, which live under "objective"."""

    def parameters(self, key: Key, model: Any) -> Params: ...

    def __call__(
        self,
        key: Key,
        network: Network,
        params: Params,
        process: Gaussian,
        x_0: Float[Array, "b *g c"],
        conditions: Conditions,
    ) -> tuple[Float[Array, " b"], dict[str, Array]]:
        """Losses, and scalars worth logging."""
        ...


class Asked(NamedTuple):
    """Noisy data, what is true of them, and the network's answer."""

    time: Float[Array, " b"]
    x_t: Float[Array, "b *g c"]
    truth: Prediction
    output: Any


def ask(
    key: Key,
    times: TimeSampling,
    network: Network,
    process: Gaussian,
    x_0: Float[Array, "b *g c"],
    conditions: Conditions,
) -> Asked:
    """What losses begin with: a time and noise for each example, and one pass."""
    time_key, noise_key = jax.random.split(key)
    time = times(time_key, (x_0.shape[0],))
    x_t, truth = process.corrupt(noise_key, x_0, time)
    output = network(process.scale(x_t, time), time, conditions)
    return Asked(time, x_t, truth, output)


def loss(
    key: Key,
    model: Any,
    params: Params,
    batch: dict[str, Array],
    *,
    process: Gaussian,
    objective: Objective,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean loss of a batch, and metrics: a pure function.

    batch: {"x_0": data in [-1, 1], ...conditions, e.g. "label"}. Conditions are
    dropped to null at the model's own rate, so that it can be guided.
    """
    if "x_0" not in batch:
        raise ValueError(f"batch has {sorted(batch)}, but it needs 'x_0': the data")
    drop_key, key = jax.random.split(key)
    conditions = {name: x for name, x in batch.items() if name != "x_0"}
    conditions = model.drop(drop_key, conditions)

    def network(x_t: Array, time: Array, conditions: Conditions) -> Any:
        return model.apply(params, x_t, time, conditions)

    losses, metrics = objective(
        key, network, params.get("objective", {}), process, batch["x_0"], conditions
    )
    return losses.mean(), {"loss": losses.mean(), **metrics}
