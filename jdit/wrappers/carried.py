# SPDX-License-Identifier: Apache-2.0
"""What one pass of the network leaves, told to the next one."""

from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp

from jdit.denoise import Denoiser, Network, Wrapped
from jdit.processes import Prediction
from jdit.typing import Array, Conditions, Memory


@dataclass(frozen=True)
class Carried:
    """Latents go on from one evaluation to the next (RIN, Jabri et al., 2023, sec. 3).

    The stream that leaves the last layer of the stage `model.carried` is the next
    evaluation's conditions[`condition`]; the first one is told zeros. Wrap the network
    itself, inside of guidance: `guidance=lambda network: CFG(2.0)(Carried()(network))`.
    There each of the two predictions carries its own; the published sampler tells both
    what the conditional one left.

    Raises ValueError around a denoiser that is not the network of such a model.
    """

    condition: str = "latents"

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        if not isinstance(denoiser, Network) or not hasattr(denoiser.model, "carried"):
            raise ValueError(
                f"denoiser is a {type(denoiser).__name__}, but Carried wraps the "
                "Network of a model with latents to carry, such as FIT: wrap it first, "
                "and guide what it gives"
            )
        return _Carrying(self.condition, denoiser)


@flax.struct.dataclass
class _State:
    """What lives from one evaluation to the next: latents and the policy's memory."""

    latents: Array
    memory: Memory


@dataclass(frozen=True)
class _Carrying(Wrapped):
    condition: str
    inner: Network

    def init(self, x_t: Array, conditions: Conditions) -> _State:
        model = self.inner.model

        def left(x_t: Array, conditions: Conditions) -> Array:
            time = jnp.zeros(x_t.shape[0])
            out = model.apply(self.inner.params, x_t, time, conditions)
            return out.taps[model.carried][-1]

        shape = jax.eval_shape(left, x_t, conditions)
        latents = jnp.zeros(shape.shape, shape.dtype)
        told = {**conditions, self.condition: latents}
        return _State(latents, self.inner.init(x_t, told))

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: _State,
        evaluation: Array,
    ) -> tuple[Prediction, _State]:
        inner = self.inner
        out = inner.model.apply(
            inner.params,
            self.process.scale(x_t, time),
            jnp.full(x_t.shape[0], time, jnp.float32),
            {**conditions, self.condition: memory.latents},
            policy=inner.policy,
            memory=memory.memory,
            step=evaluation,
        )
        state = _State(out.taps[inner.model.carried][-1], out.memory)
        return self.process.predict(out.prediction, x_t, time), state
