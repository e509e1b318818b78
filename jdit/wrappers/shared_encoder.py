# SPDX-License-Identifier: Apache-2.0
"""A condition encoder that is computed at some steps only, and which ones."""

from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdit.denoise import Denoiser, Network, Wrapped
from jdit.processes import Prediction
from jdit.typing import Array, Conditions, Float, Memory


@dataclass(frozen=True)
class SharedEncoder:
    """Compute the encoder at some evaluations; the decoder, always (DDT, section 3.4).

    In between the last z serves, which also holds the time at which it was computed, as
    in the published code. Wrap the network itself, inside of guidance:
    `guidance=lambda network: CFG(2.0)(SharedEncoder(steps)(network))`. All evaluations
    in `steps` are the plain model. Memory: one z, `b n d`, beside the policy's.

    steps: the evaluations at which the encoder is computed, rising from 0, such as
        `every(3, 50)` or `sharing_steps(...)`.

    Raises ValueError for other steps, and around a denoiser that is not the network of
    a model with `encode` and `decode`.
    """

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if (
            not self.steps
            or self.steps[0] != 0
            or list(self.steps) != sorted(set(self.steps))
        ):
            raise ValueError(
                f"steps is {self.steps}, but it must rise strictly and start at 0: "
                "at the first evaluation there is nothing to share"
            )

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        if not isinstance(denoiser, Network) or not hasattr(denoiser.model, "encode"):
            raise ValueError(
                f"denoiser is a {type(denoiser).__name__}, but SharedEncoder wraps the "
                "Network of a model with an encoder, such as DDT: wrap it first, and "
                "guide what it gives"
            )
        return _Shared(self, denoiser)


@flax.struct.dataclass
class _State:
    """What lives from one evaluation to the next: z, and the policy's memories."""

    z: Array
    encoder: Memory
    decoder: Memory


@dataclass(frozen=True)
class _Shared(Wrapped):
    shared: SharedEncoder
    inner: Network

    def init(self, x_t: Array, conditions: Conditions) -> _State:
        memory = self.inner.init(x_t, conditions)
        encoder, decoder = (memory[stage.name] for stage in self.inner.model.stages)

        def first(x_t: Array, conditions: Conditions) -> Array:
            time = jnp.zeros(x_t.shape[0])
            return self.inner.model.encode(
                self.inner.params, x_t, time, conditions
            ).result

        z = jax.eval_shape(first, x_t, conditions)
        return _State(jnp.zeros(z.shape, z.dtype), encoder, decoder)

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: _State,
        evaluation: Array,
    ) -> tuple[Prediction, _State]:
        model, params = self.inner.model, self.inner.params
        scaled = self.process.scale(x_t, time)
        how: dict[str, Any] = dict(policy=self.inner.policy, step=evaluation)

        def computed() -> tuple[Array, Memory]:
            times = jnp.full(x_t.shape[0], time, jnp.float32)
            return tuple(
                model.encode(
                    params, scaled, times, conditions, memory=memory.encoder, **how
                )
            )

        due = jnp.isin(evaluation, np.array(self.shared.steps))
        z, encoder = lax.cond(due, computed, lambda: (memory.z, memory.encoder))
        out, decoder = model.decode(params, scaled, z, memory=memory.decoder, **how)
        state = _State(z, encoder, decoder)
        return self.process.predict(out, x_t, time), state


def every(interval: int, evaluations: int) -> tuple[int, ...]:
    """Every `interval`-th of so many evaluations, from the first."""
    if interval < 1 or evaluations < 1:
        raise ValueError(
            f"interval is {interval} and evaluations is {evaluations}, but both must "
            "be at least 1"
        )
    return tuple(range(0, evaluations, interval))


def similarity(states: Float[Array, "s *b n d"]) -> Float[np.ndarray, "s s"]:
    """How alike z is at every two evaluations: the mean cosine over images and tokens.

    states: z at every evaluation of a run, `model.encode(...).result` stacked.
    """
    z = np.asarray(states, np.float64)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True).clip(1e-12)
    z = z.reshape(len(z), -1, z.shape[-1])
    return np.einsum("snd,tnd->st", z, z) / z.shape[1]


def sharing_steps(similarity: Float[np.ndarray, "s s"], count: int) -> tuple[int, ...]:
    """The `count` evaluations at which to compute the encoder, chosen together.

    They cut the run into segments that begin with a computed z; the cost of sharing is
    the sum of `1 - similarity[i, start of i's segment]` over all evaluations i, whose
    least value a dynamic program finds in `count s^2` (DDT, section 3.4). Of equally
    good starts the earliest is taken.

    Raises ValueError unless the matrix is square and 1 <= count <= s.
    """
    matrix = np.asarray(similarity, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"similarity has shape {matrix.shape}, but it must be square")
    total = len(matrix)
    if not 1 <= count <= total:
        raise ValueError(
            f"count is {count}, but of {total} evaluations 1 to {total} can be computed"
        )
    # cost[j, i]: evaluations j ... i - 1 share the z of j.
    cost = np.full((total, total + 1), np.inf)
    for j in range(total):
        cost[j, j + 1 :] = np.cumsum(1 - matrix[j:, j])
    best, origin = cost[0], []
    for _ in range(count - 1):
        ways = best[:total, None] + cost
        origin.append(ways.argmin(0))
        best = ways.min(0)
    steps, end = [], total
    for start in reversed(origin):
        end = int(start[end])
        steps.append(end)
    return (0, *reversed(steps))
