# SPDX-License-Identifier: Apache-2.0
"""FLOPs of what really ran: closed forms, and the tally of a policy's branches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny_dit import LABELS, MODEL, awake, batch

import jdit
from jdit.executed import Executed
from jdit.guidance import CFG
from jdit.inspect import cost
from jdit.policies import Observed, Reuse, Tally, branch_flops
from jdit.processes import Gaussian

N = 16
PRODUCT = 2 * N**3


def near(product_count: float) -> object:
    """So many products, and a few operations beside."""
    return pytest.approx(product_count * PRODUCT, rel=0.02)


def test_a_side_of_a_conditional_counts_when_it_is_taken():
    def program(x, often):
        def step(x, i):
            return lax.cond(i % often == 0, lambda: x @ x @ x, lambda: x), None

        return lax.scan(step, x, jnp.arange(6))[0]

    x = jnp.eye(N)
    run = Executed(program, x, 2)
    np.testing.assert_array_equal(run(x, jnp.int32(2)), x)
    assert run.flops() == near(2 * 3)  # 0, 2, 4
    run(x, jnp.int32(4))
    assert run.flops() == near(2 * (3 + 2))  # and 0, 4


def test_loops_inside_conditionals_and_calls():
    @jax.jit
    def deep(x, wanted):
        def repeat(x):
            return lax.fori_loop(0, 3, lambda _, x: x @ x, x)

        return lax.cond(wanted, jax.checkpoint(repeat), lambda x: x, x)

    def program(x, turns):
        def turn(state):
            i, x = state
            return i + 1, deep(x, i < 2) @ x

        return lax.while_loop(lambda s: s[0] < turns, turn, (0, x))[1] @ x

    x = jnp.eye(N)
    run = Executed(program, x, 5)
    np.testing.assert_array_equal(run(x, jnp.int32(5)), x)
    assert run.flops() == near(2 * 3 + 5 + 1)


def draw(params, key, guidance=None, **more):
    process = Gaussian()
    return jdit.sample(
        key, MODEL, params, LABELS, process=process, steps=4, guidance=guidance, **more
    )


def test_sampling_without_a_choice_is_the_compiled_count():
    args = awake(), jax.random.key(0)
    run = Executed(draw, *args)
    np.testing.assert_allclose(run(*args), jax.jit(draw)(*args), atol=1e-5)
    assert run.flops() == pytest.approx(cost(jax.make_jaxpr(draw)(*args)), rel=1e-3)


def test_a_policy_saves_its_branches():
    args, tally = (awake(), jax.random.key(0)), Tally()
    full, saved = (
        Executed(partial(draw, policy=policy), *args) for policy in (None, Reuse(2))
    )
    full(*args), saved(*args)
    jax.jit(partial(draw, policy=Observed(Reuse(2), tally)))(*args)
    x, time = batch()
    stream, context = MODEL.embed(awake(), x, time, LABELS)
    branches = branch_flops(MODEL.block, awake()["blocks"], stream, context)
    claim = sum((4 * MODEL.depth - tally.total(n)) * branches[n] for n in branches)
    assert tally.total() == 2 * 2 * MODEL.depth
    assert full.flops() - saved.flops() == pytest.approx(claim, rel=0.02)


def test_guidance_outside_its_interval_costs_one_pass():
    args = awake(), jax.random.key(0)
    plain, always, half = (
        Executed(partial(draw, guidance=guidance), *args)
        for guidance in (None, CFG(2.0), CFG(2.0, (0.5, 1.0)))
    )
    plain(*args), always(*args), half(*args)
    passes = plain.flops() / 4
    assert always.flops() == pytest.approx(8 * passes, rel=0.02)
    assert half.flops() == pytest.approx(6 * passes, rel=0.02)  # times 1, 3/4; 1/2, 1/4


def test_control_flow_that_cannot_be_opened_says_so():
    def loop(x):
        return lax.fori_loop(0, x.shape[0], lambda _, y: y * 2, x)

    mapped = jax.shard_map(
        loop,
        mesh=jax.make_mesh((1,), ("data",)),
        in_specs=jax.P(),
        out_specs=jax.P(),
        check_vma=False,
    )
    with pytest.raises(NotImplementedError, match="inside shard_map are not counted"):
        Executed(mapped, jnp.ones(3))(jnp.ones(3))
