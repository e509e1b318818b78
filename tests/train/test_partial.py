# SPDX-License-Identifier: Apache-2.0
"""Training a part of the parameters, and surgery before it: LoRA from a recipe."""

import io
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jdit import train
from jdit.checkpoint import named
from jdit.draw import Drawer
from jdit.evals.protocol import sampling_fields
from jdit.parallel import Plan
from jdit.policies import Reuse
from jdit.pretrained import load
from jdit.recipe import Recipe, Training
from jdit.surgery import Chain, LoRA, LowRank, Quantise, merge
from jdit.train import abstract_state, batches_of, init_state, make_step, report
from jdit.train.partial import filled, model_of, trained
from tests.train.tiny import Hooked, tiny

QUIET: dict[str, Any] = dict(console=Console(file=io.StringIO()), tensorboard=False)
FACTORS = ("kernel/[ab]$",)


def equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> Recipe:
    """A recipe that adapts what another one trained."""
    base = tiny(steps=2)
    folder = tmp_path_factory.mktemp("base")
    train.fit(base, folder, **QUIET)
    return replace(tiny(start=str(folder), trainable=FACTORS), surgery=LoRA(2))


@pytest.fixture(scope="module")
def run(adapted, tmp_path_factory) -> tuple[train.Fit, Path]:
    folder = tmp_path_factory.mktemp("adapted")
    return train.fit(adapted, folder, **QUIET), folder


def test_a_part_is_picked_by_paths_and_filled_again():
    params = {"a": {"kernel": jnp.ones(2), "bias": jnp.zeros(2)}, "b": jnp.ones(1)}
    part = trained(Training(trainable=("^a/k", "^b$")), params)
    assert set(named(part)) == {"a/kernel", "b"}
    moved = jax.tree.map(lambda x: x + 1, part)
    whole = {
        "a": {"kernel": 2 * jnp.ones(2), "bias": jnp.zeros(2)},
        "b": jnp.full(1, 2),
    }
    equal(filled(moved, params), whole)
    assert trained(Training(), params) == params


def test_mistaken_patterns_are_one_sentence():
    with pytest.raises(ValueError, match=r"'\(', which is no regular expression"):
        Training(trainable=("(",))
    with pytest.raises(ValueError, match="'wings', which is in the path of no para"):
        init_state(tiny(trainable=("wings",)))
    with pytest.raises(ValueError, match="/q is int8, which has no gradient"):
        abstract_state(replace(tiny(), surgery=Quantise()))


def test_only_the_factors_are_trained(adapted, run):
    state, start = run[0].state, load(adapted.training.start).params
    factors = {name for name in named(state.params) if name.endswith(("/a", "/b"))}
    for part in (state.ema[0], state.ema[1], state.opt_state[1].mu):
        assert set(named(part)) == factors and len(factors) == 8
    for path, x in named(state.params).items():
        if path in factors:
            assert np.abs(x).max() > 0, path
        elif not path.endswith("/scale"):
            equal(x, named(start)[path.removesuffix("/base")])
    sizes = sum(x.size for x in jax.tree.leaves(state.opt_state))
    assert sizes <= 2 * sum(named(state.params)[f].size for f in factors) + 2


def test_the_adapted_run_starts_as_the_one_it_goes_on_from(adapted):
    loaded = load(adapted.training.start)
    equal(merge(init_state(adapted).params), loaded.params)


def test_an_adapted_run_resumes_exactly(adapted, run, tmp_path):
    def terminate(batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return batch

    batches: Any = Hooked(batches_of(adapted), 3, terminate)
    part = train.fit(adapted, tmp_path, batches=batches, **QUIET)
    assert not part.done and int(part.state.step) == 4
    rest = train.fit(adapted, tmp_path, resume=True, **QUIET)
    for name in ("params", "ema", "opt_state"):
        equal(getattr(rest.state, name), getattr(run[0].state, name))


def test_an_adapted_run_is_exported_scored_and_sampled(adapted, run):
    result, folder = run
    loaded = load(folder)
    assert isinstance(loaded.params["blocks"]["attention"]["qkv"]["kernel"], LowRank)
    sampled = filled(result.state.ema[0], result.state.params)
    equal(loaded.params, sampled)
    equal(train.trained(adapted, folder), sampled)
    report(adapted, folder, console=QUIET["console"])
    assert (folder / "samples.png").is_file()
    labels, base = np.arange(3), load(adapted.training.start)
    parts = loaded.process, loaded.sampling, 3
    images = Drawer(loaded.model, loaded.params, *parts)(0, labels)
    assert np.isfinite(images).all()
    assert np.abs(images - Drawer(base.model, base.params, *parts)(0, labels)).max() > 0


def test_factors_train_on_a_quantised_model():
    chain = Chain((Quantise(), LoRA(2)))
    recipe = replace(tiny(trainable=FACTORS, accumulate=2), surgery=chain)
    state = init_state(recipe)
    before = jax.device_get(state.params)
    state, metrics = make_step(recipe)(state, next(batches_of(recipe)))
    assert np.isfinite(metrics["loss"]) and int(state.step) == 1
    after = state.params["blocks"]["attention"]["qkv"]["kernel"]
    start = before["blocks"]["attention"]["qkv"]["kernel"]
    assert after.base.q.dtype == jnp.int8
    equal(after.base, start.base)


def test_a_plan_places_a_state_with_holes(adapted):
    plan = Plan(adapted.mesh.build(jax.devices()[:1]), adapted.sharding)
    batch = next(batches_of(adapted))
    states = []
    for where in (None, plan):
        state = init_state(adapted, where)
        state, _ = make_step(adapted, where)(state, batch)
        states.append((state.params, state.ema, state.opt_state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)


@dataclass(frozen=True)
class Deeper:
    """A surgery that changes the model: as many layers again."""

    def __call__(self, model: Any, params: Any, key: Any) -> tuple[Any, Any]:
        blocks = jax.tree.map(lambda x: jnp.concatenate([x, x]), params["blocks"])
        return replace(model, depth=2 * model.depth), {**params, "blocks": blocks}


def test_surgery_may_change_the_model():
    recipe = replace(tiny(), surgery=Deeper())
    assert model_of(recipe).depth == 4 and model_of(tiny()).depth == 2
    shapes = abstract_state(recipe)
    assert shapes.params["blocks"]["mlp"]["in"]["kernel"].shape[0] == 4
    jax.eval_shape(make_step(recipe), shapes, next(batches_of(recipe)))


def test_a_recipes_policy_is_sampled_with_and_in_the_protocol(adapted):
    found = load(adapted.training.start)
    sampling = replace(found.sampling, steps=3)
    lazy = replace(sampling, policy=Reuse(3))
    one, other = (
        Drawer(found.model, found.params, found.process, how, 3)(0, np.arange(3))
        for how in (sampling, lazy)
    )
    assert np.abs(one - other).max() > 0
    assert sampling_fields(found.process, lazy)["policy"] == "Reuse(interval=3)"
    assert "policy" not in sampling_fields(found.process, sampling)
