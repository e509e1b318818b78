# SPDX-License-Identifier: Apache-2.0
"""Depth, and the seam through which computation is changed: `Policy` and `walk`.

A block is a sequence of named residual *branches*. `walk` scans over stacked block
parameters and asks a policy, branch by branch, whether, where and with what each one
is computed. Caching, forecasting, skipping, token subsets and width routing are
policies; no block knows of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jdit.typing import Array, Int, Key, Memory, Params, Stream

Remat = Literal["none", "block", "dots", "offload"]


@flax.struct.dataclass
class Context:
    """What every layer sees beside the stream.

    vector: the conditioning vector (time, label, ...), `b d`.
    rotary: cosines and sines of `jdit.tokens.rotary_table`, each `n k/2` or `b n k/2`,
        or None.
    text:   condition tokens, `b m d`, or None.
    mask:   which condition tokens are real, `b m`, or None.
    layer:  what one layer alone sees, such as a long skip: leaves `l ...` where a walk
        begins, and this layer's slice inside a block. None if there is nothing.
    extra:  what else a family hands to all its layers, by name.
    """

    vector: Array
    rotary: tuple[Array, Array] | None = None
    text: Array | None = None
    mask: Array | None = None
    layer: Any = None
    extra: Any = None


class Stage(NamedTuple):
    """Layers of one kind, scanned together.

    name: their key among parameters, memory, taps and residuals; depth: their number.
    """

    name: str
    block: "Block"
    depth: int


class Site(NamedTuple):
    """Where a branch is, as data that may be traced."""

    depth: Int[Array, ""]
    branch: str
    step: Int[Array, ""]


@dataclass(frozen=True)
class Branch:
    """One residual branch of one layer, not yet computed.

    `branch(stream, weights)` is the costly part: its *output* has the stream's shape
    and is not yet gated. `branch.merge(stream, output)` is the cheap part: it applies
    the gate of this very step and adds. A cache therefore keeps outputs, and a reused
    output is still modulated by the current time, as the caching papers do.

    `weights` are handed over explicitly, so that a policy can pass fewer heads or a
    narrower MLP; `at(context)` is the same branch for other tokens (a subset, say).
    """

    block: "Block"
    name: str
    params: Params
    context: Context

    @property
    def weights(self) -> Params:
        return self.params

    def __call__(self, stream: Stream, weights: Params) -> Stream:
        return self.block.output(self.name, weights, stream, self.context)

    def merge(self, stream: Stream, output: Stream) -> Stream:
        return self.block.merge(self.name, self.params, stream, output, self.context)

    def at(self, context: Context) -> "Branch":
        return replace(self, context=context)


class Block(Protocol):
    """One layer, as named residual branches in the order in which they are applied.

    A block that must first change the stream (the join of a long skip, say) also has
    `enter(params, stream, context) -> stream`, with its parameters under "enter".
    """

    @property
    def branches(self) -> tuple[str, ...]: ...

    def init(self, key: Key) -> Params:
        """Parameters of one layer: {branch: {...}}."""
        ...

    def output(
        self, name: str, params: Params, stream: Stream, context: Context
    ) -> Stream:
        """A branch's output before its gate."""
        ...

    def merge(
        self, name: str, params: Params, stream: Stream, output: Stream, ctx: Context
    ) -> Stream:
        """The gated sum of the stream and a branch's output."""
        ...


class Policy(Protocol):
    """Whether, where and with what a residual branch is computed (seam 1)."""

    def parameters(self, key: Key, delta: Stream) -> Params:
        """Parameters for one site; {} unless the policy is learned."""
        ...

    def init(self, delta: Stream) -> Memory:
        """Memory for one site, given the shape of the branch's output."""
        ...

    def apply(
        self,
        branch: Branch,
        stream: Stream,
        context: Context,
        memory: Memory,
        site: Site,
        params: Params,
    ) -> tuple[Stream, Memory]:
        """The stream after the branch, and the memory for the next step."""
        ...


def policy_at(policy: Policy, branch: str) -> Policy:
    """The policy of one branch: `policy.at(branch)` where there is such a method.

    A policy that treats branches differently has `at(branch) -> Policy`, and so keeps
    no memory for the branches it leaves alone.
    """
    return policy.at(branch) if hasattr(policy, "at") else policy


@dataclass(frozen=True)
class Always:
    """Compute every branch, always: the plain model."""

    def parameters(self, key: Key, delta: Stream) -> Params:
        return {}

    def init(self, delta: Stream) -> Memory:
        return ()

    def apply(
        self,
        branch: Branch,
        stream: Stream,
        context: Context,
        memory: Memory,
        site: Site,
        params: Params,
    ) -> tuple[Stream, Memory]:
        return branch.merge(stream, branch(stream, branch.weights)), memory


class Walk(NamedTuple):
    """What a walk through the layers returns.

    taps are the streams after each layer, `l b n d`: returned always, and dropped by
    XLA where nobody reads them.
    """

    stream: Stream
    memory: Memory
    taps: Stream


def depth_of(params: Params) -> int:
    """The number of layers in stacked parameters."""
    return jax.tree.leaves(params)[0].shape[0]


def stack_init(block: Block, key: Key, depth: int) -> Params:
    """Parameters of `depth` layers, stacked along a new first axis."""
    return jax.vmap(block.init)(jax.random.split(key, depth))


def _per_site(
    block: Block, params: Params, stream: Stream, context: Context, make: Callable
) -> dict[str, Any]:
    """`make(name, delta)` for each branch, given its output's shape; no FLOPs."""

    def outputs(params: Params, stream: Stream, context: Context) -> dict[str, Stream]:
        layer = jax.tree.map(lambda leaf: leaf[0], params)
        own = jax.tree.map(lambda leaf: leaf[0], context.layer)
        context = context.replace(layer=own)  # type: ignore[attr-defined]
        branches = {n: Branch(block, n, layer[n], context) for n in block.branches}
        return {n: branch(stream, branch.weights) for n, branch in branches.items()}

    shapes = jax.eval_shape(outputs, params, stream, context)
    return {name: make(name, delta) for name, delta in shapes.items()}


def init_memory(
    block: Block, params: Params, stream: Stream, context: Context, policy: Policy
) -> Memory:
    """A policy's first memory: {branch: tree with leaves `l ...`}."""

    def init(name: str, delta: Stream) -> Memory:
        return policy_at(policy, name).init(delta)

    one = _per_site(block, params, stream, context, init)
    depth = depth_of(params)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (depth, *x.shape)), one)


def init_policy(
    block: Block,
    key: Key,
    params: Params,
    stream: Stream,
    context: Context,
    policy: Policy,
) -> Params:
    """A policy's parameters: {branch: tree with leaves `l ...`}; {} if not learned."""
    keys = jax.random.split(key, depth_of(params))
    index = {name: i for i, name in enumerate(block.branches)}

    def make(name: str, delta: Stream) -> Params:
        own = policy_at(policy, name)
        folded = jax.vmap(lambda k: jax.random.fold_in(k, index[name]))(keys)
        return jax.vmap(lambda k: own.parameters(k, delta))(folded)

    return _per_site(block, params, stream, context, make)


def _remat(layer: Callable, remat: Remat) -> Callable:
    policies = jax.checkpoint_policies
    match remat:
        case "none":
            return layer
        case "block":
            return jax.checkpoint(layer, policy=policies.nothing_saveable)
        case "dots":
            return jax.checkpoint(
                layer, policy=policies.dots_with_no_batch_dims_saveable
            )
        case "offload":
            offload = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=["stream"],
                offload_src="device",
                offload_dst="pinned_host",
            )
            return jax.checkpoint(layer, policy=offload)
    raise ValueError(
        f"remat is {remat!r}, but it must be 'none', 'block', 'dots' or 'offload'"
    )


def walk(
    block: Block,
    params: Params,
    stream: Stream,
    context: Context,
    *,
    policy: Policy | None = None,
    policy_params: Mapping[str, Params] | None = None,
    memory: Memory = None,
    step: Int[Array, ""] | int = 0,
    first: int = 0,
    inject: Stream | None = None,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> Walk:
    """Scan over depth, applying each layer's branches under a policy.

    params: stacked block parameters, leaves `l ...`.
    policy: `Always()` if None; memory: from `init_memory`, made here if None.
    step: the index of the network evaluation within a sampling run.
    first: the depth of the first layer here, where a model has several stages.
    inject: residuals `l b n d` added to the stream after each layer (control).
    remat: what the backward pass recomputes. "block" keeps only the stream between
        layers, "dots" keeps matrix products too, "offload" keeps what "block" does, but
        in the host's memory.
    unroll: layers per loop iteration; True unrolls the whole depth.
    """
    policy = Always() if policy is None else policy
    policy_params = {} if policy_params is None else policy_params
    if memory is None:
        memory = init_memory(block, params, stream, context, policy)
    depth = depth_of(params)
    step = jnp.asarray(step, jnp.int32)
    enter = getattr(block, "enter", None)

    def layer(stream: Stream, xs: tuple) -> tuple[Stream, tuple]:
        params, policy_params, memory, extra, own, index = xs
        if remat == "offload":
            stream = jax.tree.map(lambda x: checkpoint_name(x, "stream"), stream)
        here = context.replace(layer=own)  # type: ignore[attr-defined]
        if enter is not None:
            stream = enter(params["enter"], stream, here)
        kept = {}
        for name in block.branches:
            branch = Branch(block, name, params[name], here)
            stream, kept[name] = policy_at(policy, name).apply(
                branch,
                stream,
                here,
                memory[name],
                Site(index, name, step),
                policy_params.get(name, {}),
            )
        if extra is not None:
            stream = jax.tree.map(lambda x, r: x + r.astype(x.dtype), stream, extra)
        return stream, (kept, stream)

    index = first + jnp.arange(depth)
    xs = (params, dict(policy_params), memory, inject, context.layer, index)
    stream, (memory, taps) = lax.scan(_remat(layer, remat), stream, xs, unroll=unroll)
    return Walk(stream, memory, taps)
