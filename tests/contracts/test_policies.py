# SPDX-License-Identifier: Apache-2.0
"""Policies: plain at the neutral setting, fixed memory, one compile, FLOPs saved."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from tiny_dit import LABELS, MODEL, awake, batch

import jdit
from jdit.guidance import CFG
from jdit.policies import (
    Always,
    Depths,
    Forecast,
    Observed,
    PerBranch,
    Reuse,
    Tally,
    branch_flops,
)
from jdit.processes import Gaussian

STEPS = 7

NEUTRAL = {
    "always": Always(),
    "reuse": Reuse(1),
    "forecast": Forecast(1, order=2),
    "per branch": PerBranch({}),
    "depths": Depths(Reuse(3), 8, 9),
    "observed": Observed(Always()),
}

# How often attention and MLP are computed in each layer, over STEPS evaluations.
BUSY = {
    "always": (Always(), [7, 7, 7], [7, 7, 7]),
    "reuse 2": (Reuse(2), [4, 4, 4], [4, 4, 4]),
    "reuse 3": (Reuse(3), [3, 3, 3], [3, 3, 3]),
    "reuse all": (Reuse(99), [1, 1, 1], [1, 1, 1]),
    "forecast 3": (Forecast(3), [3, 3, 3], [3, 3, 3]),  # 0, 1, 4
    "forecast 2, order 2": (Forecast(2, 2, warmup=3), [5] * 3, [5] * 3),  # 0 1 2 4 6
    "per branch": (PerBranch({"mlp": Reuse(4)}), [7, 7, 7], [2, 2, 2]),
    "depths": (Depths(Reuse(4), 1, 3), [7, 2, 2], [7, 2, 2]),
}


def each(parts):
    return pytest.mark.parametrize("part", parts.values(), ids=parts.keys())


def draw(policy, key, steps=STEPS, guidance=None):
    return jdit.sample(
        key, MODEL, awake(), LABELS, process=Gaussian(), steps=steps, policy=policy,
        guidance=guidance,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return jax.jit(partial(draw, None))(jax.random.key(0))


@each(NEUTRAL)
def test_the_neutral_setting_is_the_plain_model(part, plain):
    out = jax.jit(partial(draw, part))(jax.random.key(0))
    np.testing.assert_allclose(out, plain, atol=1e-5)


@each(BUSY)
def test_memory_keeps_its_shapes(part):
    policy, (x, time) = part[0], batch()
    memory = MODEL.memory(awake(), x, LABELS, policy)
    run = partial(MODEL.apply, policy=policy)
    after = jax.eval_shape(lambda m: run(awake(), x, time, LABELS, memory=m), memory)
    kinds = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert kinds(after.memory) == kinds(memory)


@each(BUSY)
def test_computes_as_often_as_it_claims_and_compiles_once(part):
    policy, *claims = part
    tally = Tally()
    run = jax.jit(partial(draw, Observed(policy, tally)))
    for seed in range(2):
        tally.clear()
        key = jax.random.key(seed)
        with compilations() as compiled:
            out = run(key)
        assert np.all(np.isfinite(out)) and (seed == 0 or not compiled)
        for name, claim in zip(("attention", "mlp"), claims, strict=True):
            assert tally.total(name) == sum(claim)
            assert [tally.counts[i, name] for i in range(MODEL.depth)] == claim


def test_what_is_saved_is_nearly_all_there_is():
    """Executions times XLA's cost of each branch, against the cost of a whole pass."""
    x, time = batch()
    stream, context = MODEL.embed(awake(), x, time, LABELS)
    cost = branch_flops(MODEL.block, awake()["blocks"], stream, context)
    dim, n, b = MODEL.dim, MODEL.tokens.count, 2
    matrices = {"attention": 4 * dim**2 + 2 * n * dim, "mlp": 8 * dim**2}
    for name, products in matrices.items():
        assert 1 < cost[name] / (2 * b * n * products) < 1.5
    tally = Tally()
    jax.block_until_ready(jax.jit(partial(draw, Observed(Reuse(7), tally)))(
        jax.random.key(0)
    ))  # fmt: skip
    spent = sum(tally.total(name) * cost[name] for name in cost)
    assert spent == pytest.approx(sum(cost.values()) * MODEL.depth)


def test_the_branch_is_inside_a_conditional():
    """XLA keeps the branch in one side of a conditional, so the other side is free."""
    x, time = batch()
    memory = MODEL.memory(awake(), x, LABELS, Reuse(2))
    run = jax.jit(partial(MODEL.apply, policy=Reuse(2)))
    text = run.lower(awake(), x, time, LABELS, memory=memory).compile().as_text()
    assert " conditional(" in text


def test_works_under_guidance():
    """Conditional and unconditional halves keep an output each."""
    out = jax.jit(partial(draw, Reuse(2), guidance=CFG(1.0)))(jax.random.key(0))
    alone = jax.jit(partial(draw, Reuse(2)))(jax.random.key(0))
    np.testing.assert_allclose(out, alone, atol=1e-4)


def test_a_network_called_late_computes():
    """Without memory there is nothing to reuse, whatever the step is."""
    x, time = batch()
    plain = jax.jit(MODEL.apply)(awake(), x, time, LABELS).prediction
    for policy in (Reuse(3), Forecast(3)):
        run = jax.jit(partial(MODEL.apply, policy=policy))
        late = run(awake(), x, time, LABELS, step=jnp.int32(4)).prediction
        np.testing.assert_allclose(late, plain, atol=1e-5)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Reuse(0), "interval is 0, but it must be at least 1"),
        (lambda: Forecast(0), "interval is 0"),
        (lambda: Forecast(2, order=-1), "order is -1, but it must be at least 0"),
        (lambda: Forecast(2, warmup=0), "warmup is 0"),
        (lambda: Depths(Reuse(2), 3, 3), "first is 3 and last is 3"),
    ],
)
def test_impossible_policies_say_so(make, words):
    with pytest.raises(ValueError, match=words):
        make()
