# SPDX-License-Identifier: Apache-2.0
"""Searching for the fastest step: its estimates, its choices, and that it ends well."""

from dataclasses import dataclass, replace
from math import prod

import jax
import pytest

from jdit.cli import main, parse
from jdit.compile import Choice, Estimate, Search, Topology, ranking, search
from jdit.compile.chips import CHIPS
from jdit.compile.estimate import meshes
from jdit.compile.options import Compile
from jdit.compile.search import choices
from jdit.conditioning import Labels
from jdit.data import Digits
from jdit.models import DiT
from jdit.parallel import Mesh, dp, fsdp
from jdit.recipe import Recipe, Training

MODEL = DiT((8, 8), 1, dim=64, depth=4, heads=2, conditioning=Labels(10))
RECIPE = Recipe("tiny", MODEL, Digits("train"), training=Training(batch=48, ema=(0.9,)))
TOKENS = prod(MODEL.tokens.shape)
V5E = CHIPS["v5e"]
ONE = Choice(Mesh(1), "block", 1)


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    return Estimate(RECIPE, V5E, 8)


def whole() -> int:
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_meshes_use_every_chip_once_and_split_heads_evenly():
    found = list(meshes(24, 6))
    assert len(set(found)) == len(found)
    for mesh in found:
        assert mesh.data * mesh.fsdp * mesh.tensor == 24
        assert 6 % mesh.tensor == 0
    assert {mesh.tensor for mesh in found} == {1, 2, 3, 6}
    assert {mesh.fsdp for mesh in found if mesh.tensor == 1} == {
        1,
        2,
        3,
        4,
        6,
        8,
        12,
        24,
    }
    assert {mesh.tensor for mesh in meshes(8, None)} == {1}
    long = [mesh for mesh in meshes(8, None, sequence=4) if mesh.sequence == 4]
    assert [(mesh.data, mesh.fsdp) for mesh in long] == [(2, 1), (1, 2)]


def test_choices_hold_the_batch_where_asked():
    options = Search(rows=(1, 2, 3), hold=True)
    found = choices(RECIPE, 8, options, ("block",))
    assert found and {choice.batch for choice in found} == {48}
    free = choices(RECIPE, 8, Search(rows=(1, 2)), ("none", "block"))
    assert {choice.micro for choice in free} == {1}
    assert {c.batch for c in free if c.mesh.tensor == 1} == {8, 16}
    assert {c.batch for c in free if c.mesh.tensor == 2} == {4, 8}


def test_choices_use_no_axis_that_no_rule_knows():
    found = choices(replace(RECIPE, sharding=dp), 8, Search(rows=(1,)), ("block",))
    assert [choice.mesh for choice in found] == [Mesh(data=8, fsdp=1)]
    found = choices(replace(RECIPE, sharding=fsdp), 8, Search(rows=(1,)), ("block",))
    assert {choice.mesh.tensor for choice in found} == {1}


def test_parameters_are_split_as_the_rules_say(estimate):
    assert estimate.params(Mesh(8)) == whole()
    split = estimate.params(Mesh(1, 8))
    assert whole() / 8 <= split < whole() / 4  # small ones stay whole
    assert estimate.params(Mesh(4, 1, 2)) < whole()
    assert estimate.params(Mesh(1, 4, 2)) < estimate.params(Mesh(2, 4))


def test_what_is_kept_is_the_streams_and_the_rest(estimate):
    """Of one example: with "block" the stream that enters each layer, in float32."""
    deep = replace(RECIPE, model=replace(MODEL, depth=2 * MODEL.depth))
    deeper, (streams, layer) = Estimate(deep, V5E, 8), estimate.kept("block")
    more = 4 * MODEL.depth * TOKENS * MODEL.dim
    assert deeper.kept("block")[0] - streams == pytest.approx(more)
    assert deeper.kept("offload")[0] == estimate.kept("offload")[0]
    rest = [estimate.kept(name)[1] for name in ("block", "dots", "none")]
    assert rest == sorted(rest)
    assert estimate.kept("none")[0] == streams
    assert rest[2] == pytest.approx((MODEL.depth + 1) * layer, rel=0.01)


@dataclass
class Seen:
    needed: float
    kernels_time: float = 0.0
    network_time: float = 0.0


def test_a_compiled_step_corrects_the_estimate():
    estimate = Estimate(RECIPE, V5E, 8)
    small, large = (Choice(Mesh(8, 1), "block", n) for n in (8, 16))
    fixed, before = estimate.fixed(small.mesh), estimate.needed(large)
    beyond = estimate.needed(small) - fixed
    estimate.learn(small, Seen(fixed + 1.5 * beyond, 3.0, 0.5))
    assert estimate.needed(small) == pytest.approx(fixed + 1.5 * beyond)
    assert estimate.needed(large) == pytest.approx(fixed + 1.5 * (before - fixed))
    assert estimate.seconds(small) == pytest.approx(3.5)
    estimate.learn(large, Seen(fixed + 2.5 * beyond))  # 8 examples more: 1 x beyond
    half = small._replace(rows=12)
    assert estimate.needed(half) == pytest.approx(fixed + 2 * beyond)
    other = small._replace(remat="none")
    assert estimate.needed(other) == Estimate(RECIPE, V5E, 8).needed(other)


def test_tokens_split_over_a_sequence_axis_need_less(estimate):
    one, four = Choice(Mesh(8, 1), "none", 4), Choice(Mesh(2, 1, 1, 4), "none", 4)
    beyond = estimate.needed(one) - estimate.fixed(one.mesh)
    assert estimate.fixed(four.mesh) == estimate.fixed(one.mesh)
    split = estimate.needed(four) - estimate.fixed(four.mesh)
    assert split == pytest.approx(beyond / 4)
    assert four.batch == one.batch // 4


def test_more_examples_need_more_memory_and_give_more_images(estimate):
    for remat in ("none", "dots", "block"):
        few, many = (Choice(Mesh(8, 1), remat, n) for n in (1, 64))
        assert estimate.needed(few) < estimate.needed(many)
        assert estimate.images(few) < estimate.images(many)


def test_the_words_of_a_choice_are_its_options():
    for choice in (
        Choice(Mesh(8), "dots", 4),
        Choice(Mesh(1, 8), "block", 2, 3),
        Choice(Mesh(1, 4, 2), "offload", 1),
        Choice(Mesh(2, 1, 1, 4), "none", 1),
    ):
        default = replace(RECIPE, mesh=Mesh())
        parsed = parse(Compile, default, "jdit", choice.words().split())
        run = choice.of(RECIPE)
        assert parsed.mesh.sizes(8) == run.mesh.sizes(8)
        assert parsed.training == run.training and parsed.model == run.model


@pytest.fixture(scope="module")
def found():
    """On one device that has room for some rows alone."""
    here = jax.devices("cpu")[:1]
    small = replace(V5E, hbm=4 * 4 * whole() + 8e6)
    lines: list[str] = []
    options = Search(tries=4, rows=(1, 16, 1024), remat=("none", "block"))
    place = Topology("v5e:1x1", tuple(here), small, (1, 1))
    return search(RECIPE, place, options, lines.append), lines


def test_the_best_was_compiled_and_fits(found):
    found, lines = found
    best = found.best
    assert best is not None and best.report.memory.total <= found.where.chip.hbm
    fit = [trial for trial in found.trials if trial.fits]
    assert best.images == max(trial.images for trial in fit)
    assert len(found.trials) <= 4 and len(lines) == 2 * len(found.trials)
    assert len(found.trials) + len(found.left) == 6
    assert len({trial.choice for trial in found.trials}) == len(found.trials)
    assert best.choice.rows < 1024  # which has no room


def test_the_table_ranks_and_names_the_command(found):
    from rich.console import Console

    found, _ = found
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(ranking(found, "digits"))
    text = console.export_text()
    assert f"jdit compile digits --topology v5e:1x1 {found.best.choice.words()}" in text
    assert "Ranked by images/s: the compiler's cycles" in text


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("--topology cpu --search", "ranks by the rates of a chip"),
        ("--search --what sample", "--search is for training"),
        ("--search --search.tries 0", "search.tries is 0"),
        ("--search.sequence 0", "search.sequence is 0"),
        ("--search.rows 0", "search.rows is (0,)"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        main(["compile", "digits", *words.split()])
    assert stop.value.code
    assert sentence in capsys.readouterr().err


def test_a_batch_that_nothing_splits_is_named():
    recipe = replace(RECIPE, training=replace(RECIPE.training, batch=7))
    here = tuple(jax.devices("cpu")[:1])
    place = Topology("v5e:1x1", here, V5E, (1, 1))
    with pytest.raises(ValueError, match="training.batch is 7, which no mesh"):
        search(recipe, place, Search(rows=(2,), hold=True))
