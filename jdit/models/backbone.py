# SPDX-License-Identifier: Apache-2.0
"""What every family of backbones shares: the walk from data to prediction."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jdit import stack
from jdit.stack import Always, Context, Policy, Remat, Stage
from jdit.typing import Array, Conditions, Float, Int, Key, Memory, Params, Stream


class Output(NamedTuple):
    """What one pass of a network returns.

    prediction: `b *g e`, float32, in the terms of the process the model was trained
        with; with a learned variance, e is twice the data's channels.
    memory: the policy's, for the next step. taps: {stage: the stream after each of its
        layers, `l b n d`}.
    """

    prediction: Float[Array, "b *g e"]
    memory: Memory
    taps: dict[str, Stream]


class Backbone(ABC):
    """A family: embed, walk through the stages, read out.

    A family is a frozen dataclass that says how its stages are made up (`stages`),
    how data, time and conditions become a stream (`embed`), and how the stream becomes
    a prediction (`read_out`). `enter` is what happens between stages, if anything.
    """

    remat: Remat
    unroll: int
    conditioning: Any
    grid: tuple[int, ...]
    channels: int

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one example: grid and channels."""
        return (*self.grid, self.channels)

    @property
    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The layers, in order; a stage's parameters are `params[stage.name]`."""

    @abstractmethod
    def init(self, key: Key) -> Params:
        """Parameters, initialised as published."""

    @abstractmethod
    def embed(
        self, params: Params, x_t: Array, time: Array, conditions: Conditions
    ) -> tuple[Stream, Context]:
        """The stream that enters the first layer, and what every layer sees."""

    @abstractmethod
    def read_out(self, params: Params, stream: Stream, context: Context) -> Array:
        """The prediction, `b *g e`, from the stream after the last layer."""

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """What enters a stage, given what left the one before and all taps so far."""
        return stream, context

    def init_stages(self, key: Key) -> Params:
        """The stacked parameters of all stages, by name."""
        keys = jax.random.split(key, len(self.stages))
        return {
            stage.name: stack.stack_init(stage.block, k, stage.depth)
            for stage, k in zip(self.stages, keys, strict=True)
        }

    def apply(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions | None = None,
        *,
        policy: Policy | None = None,
        memory: Memory = None,
        step: Int[Array, ""] | int = 0,
        inject: Mapping[str, Stream] | None = None,
    ) -> Output:
        """One pass of the network: a pure function of its arguments.

        policy, memory, step: seam 1 (`jdit.stack`); memory from `self.memory`.
        inject: {stage: residuals `l b n d` added after each layer}.

        Raises ValueError when the data's grid or channels are not the model's.
        """
        self._check(x_t, time)
        stream, context = self.embed(params, x_t, time, conditions or {})
        learned, first = params.get("policy") or {}, 0
        kept: dict[str, Memory] = {}
        taps: dict[str, Stream] = {}
        for stage in self.stages:
            stream, context = self.enter(stage.name, params, stream, context, taps)
            stream, kept[stage.name], taps[stage.name] = stack.walk(
                stage.block,
                params[stage.name],
                stream,
                context,
                policy=policy,
                policy_params=learned.get(stage.name),
                memory=None if memory is None else memory[stage.name],
                step=step,
                first=first,
                inject=None if inject is None else inject.get(stage.name),
                remat=self.remat,
                unroll=self.unroll,
            )
            first += stage.depth
        prediction = self.read_out(params, stream, context)
        return Output(prediction.astype(jnp.float32), kept, taps)

    def memory(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        conditions: Conditions,
        policy: Policy,
    ) -> Memory:
        """The policy's first memory for a batch of this shape; costs no FLOPs."""
        return {
            stage.name: stack.init_memory(
                stage.block, params[stage.name], stream, context, policy
            )
            for stage, (stream, context) in self._entered(params, x_t, conditions)
        }

    def init_policy(
        self,
        key: Key,
        params: Params,
        policy: Policy,
        conditions: Conditions | None = None,
    ) -> Params:
        """The same parameters with those of a learned policy, under "policy".

        conditions: one image's, if the model is told more than a label.
        """
        if conditions is None:
            conditions = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)}
        x_t = jax.ShapeDtypeStruct((1, *self.sample_shape), jnp.float32)
        entered = self._entered(params, x_t, conditions)
        learned = {
            stage.name: stack.init_policy(
                stage.block,
                jax.random.fold_in(key, number),
                params[stage.name],
                stream,
                context,
                policy,
            )
            for number, (stage, (stream, context)) in enumerate(entered)
        }
        return {**params, "policy": learned}

    def null(self, conditions: Conditions) -> Conditions:
        """The conditions of the unconditional prediction."""
        if self.conditioning is None:
            return conditions
        return self.conditioning.null(conditions)

    def drop(self, key: Key, conditions: Conditions) -> Conditions:
        """Conditions with some dropped to null, for training."""
        if self.conditioning is None:
            return conditions
        return self.conditioning.drop(key, conditions)

    def _entered(
        self, params: Params, x_t: Any, conditions: Conditions
    ) -> list[tuple[Stage, tuple[Stream, Context]]]:
        """The shapes of what enters each stage."""

        def run(params: Params, x_t: Array, time: Array, conditions: Conditions) -> Any:
            stream, context = self.embed(params, x_t, time, conditions)
            found, taps = [], cast(dict[str, Stream], {})
            for stage in self.stages:
                stream, context = self.enter(stage.name, params, stream, context, taps)
                found.append((stream, context))
                stream, _, taps[stage.name] = stack.walk(
                    stage.block, params[stage.name], stream, context, policy=Always()
                )
            return found

        time = jax.ShapeDtypeStruct((x_t.shape[0],), jnp.float32)
        shapes = jax.eval_shape(run, params, x_t, time, conditions)
        return list(zip(self.stages, shapes, strict=True))

    def _check(self, x_t: Array, time: Array) -> None:
        if x_t.shape[1:] != self.sample_shape:
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}, but this model takes "
                f"(batch, {', '.join(map(str, self.sample_shape))}): "
                "batch first, channels last"
            )
        if jnp.shape(time) != (x_t.shape[0],):
            raise ValueError(
                f"time has shape {jnp.shape(time)}, but it must be ({x_t.shape[0]},): "
                "one time per image"
            )
