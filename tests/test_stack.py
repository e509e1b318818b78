# SPDX-License-Identifier: Apache-2.0
"""The walk over depth: scan and unroll, remat, taps, injection, learned policies."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import LABELS, MODEL, awake, batch

from jdit import stack
from jdit.policies import Always, PerBranch
from jdit.stack import walk

BLOCK = MODEL.block
PARAMS = awake()["blocks"]
X, TIME = batch()


def enter():
    return MODEL.embed(awake(), X, TIME, LABELS)


@jax.jit
def plain(x, context):
    return walk(BLOCK, PARAMS, x, context)


def by_hand(x, context, inject=None):
    """Layer by layer, branch by branch."""
    taps = []
    for i in range(MODEL.depth):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], PARAMS)
        for name in BLOCK.branches:
            output = BLOCK.output(name, layer[name], x, context)
            x = BLOCK.merge(name, layer[name], x, output, context)
        x = x if inject is None else x + inject[i]
        taps.append(x)
    return x, jnp.stack(taps)


def test_walk_is_layer_after_layer():
    x, context = enter()
    out, (stream, taps) = plain(x, context), jax.jit(by_hand)(x, context)
    np.testing.assert_allclose(out.stream, stream, atol=1e-5)
    np.testing.assert_allclose(out.taps, taps, atol=1e-5)
    np.testing.assert_array_equal(out.taps[-1], out.stream)


@pytest.mark.parametrize("unroll", [2, True])
def test_unrolling_changes_nothing(unroll):
    x, context = enter()
    out = jax.jit(lambda x, c: walk(BLOCK, PARAMS, x, c, unroll=unroll))(x, context)
    np.testing.assert_allclose(out.stream, plain(x, context).stream, atol=1e-5)


def test_injection_adds_after_each_layer():
    x, context = enter()
    extra = jax.random.normal(jax.random.key(5), (MODEL.depth, *x.shape))
    out = jax.jit(lambda x, c, r: walk(BLOCK, PARAMS, x, c, inject=r))(
        x, context, extra
    )
    stream, taps = jax.jit(by_hand)(x, context, extra)
    np.testing.assert_allclose(out.stream, stream, atol=1e-5)
    np.testing.assert_allclose(out.taps, taps, atol=1e-5)
    none = jax.jit(lambda x, c, r: walk(BLOCK, PARAMS, x, c, inject=r))
    zero = none(x, context, jnp.zeros_like(extra))
    np.testing.assert_allclose(zero.stream, plain(x, context).stream, atol=1e-5)


def gradient(remat):
    model = replace(MODEL, remat=remat)

    def total(weights):
        return jnp.sum(jnp.square(model.apply(weights, X, TIME, LABELS).prediction))

    return jax.jit(jax.grad(total))


@pytest.mark.parametrize("remat", ["block", "dots", "offload"])
def test_remat_changes_no_gradient(remat):
    exact, other = gradient("none")(awake()), gradient(remat)(awake())
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    jax.tree.map(close, exact, other)


def test_remat_block_recomputes():
    """The backward pass of "block" runs the forward pass once more."""

    def dots(remat):
        return str(gradient(remat).lower(awake()).as_text()).count("dot_general")

    assert dots("block") > dots("none")


def test_an_unknown_remat_says_so():
    with pytest.raises(ValueError, match="remat is 'all', but it must be 'none'"):
        walk(BLOCK, PARAMS, *enter(), remat="all")


def test_taps_that_nobody_reads_are_dropped():
    """With taps the program holds and returns `l b n d` more; without, it does not."""
    x, context = enter()

    def temporaries(read):
        compiled = jax.jit(read).lower(x, context).compile()
        text = compiled.as_text()
        return f"f32[{MODEL.depth},{','.join(map(str, x.shape))}]" in text

    assert temporaries(lambda x, c: walk(BLOCK, PARAMS, x, c).taps)
    assert not temporaries(lambda x, c: walk(BLOCK, PARAMS, x, c).stream)


@dataclass(frozen=True)
class Scaled:
    """A learned policy: the branch's output times a number of the site, from 1."""

    def parameters(self, key, delta):
        return {"log": jnp.zeros(()), "drawn": jax.random.normal(key, ())}

    def init(self, delta):
        return jnp.zeros((), jnp.int32)

    def apply(self, branch, stream, context, memory, site, params):
        output = branch(stream, branch.weights) * jnp.exp(params["log"])
        return branch.merge(stream, output), memory + 1


def test_a_learned_policy_owns_its_parameters():
    """They live under "policy" of the one tree, a number for each depth and branch."""
    weights = MODEL.init_policy(jax.random.key(3), awake(), Scaled())
    sites = weights["policy"]["blocks"]
    assert set(sites) == {"attention", "mlp"}
    drawn = np.concatenate([sites[name]["drawn"] for name in sites])
    assert drawn.shape == (2 * MODEL.depth,) and len(set(drawn.tolist())) == len(drawn)

    def total(weights):
        out = MODEL.apply(weights, X, TIME, LABELS, policy=Scaled())
        return jnp.sum(jnp.square(out.prediction)), out

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, out), grads = run(weights)
    plain = jax.jit(MODEL.apply)(awake(), X, TIME, LABELS).prediction
    np.testing.assert_allclose(out.prediction, plain, atol=1e-5)
    for name in sites:
        assert np.all(np.abs(grads["policy"]["blocks"][name]["log"]) > 1e-6)
        assert out.memory["blocks"][name].tolist() == [1] * MODEL.depth


def test_a_policy_without_parameters_has_none():
    weights = MODEL.init_policy(jax.random.key(0), awake(), Always())
    assert weights["policy"] == {"blocks": {"attention": {}, "mlp": {}}}


def test_memory_is_made_for_the_branches_that_need_it():
    x, context = enter()
    policy = PerBranch({"mlp": Scaled()})
    memory = stack.init_memory(BLOCK, PARAMS, x, context, policy)
    assert memory["attention"] == () and memory["mlp"].shape == (MODEL.depth,)


def test_always_costs_nothing_over_the_layers_by_hand():
    """XLA counts the same floating-point operations, the depth unrolled."""
    x, context = enter()

    def flops(run):
        return jax.jit(run).lower(x, context).compile().cost_analysis()["flops"]

    walked = flops(lambda x, c: walk(BLOCK, PARAMS, x, c, unroll=True).stream)
    assert walked == pytest.approx(flops(lambda x, c: by_hand(x, c)[0]), rel=0.01)
