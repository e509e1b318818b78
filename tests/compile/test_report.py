# SPDX-License-Identifier: Apache-2.0
"""The report of a tiny recipe, on eight simulated devices and on chips not there."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from jdit.cli import main
from jdit.compile import CHIPS, compile_recipe, topology
from jdit.compile.groups import Group
from jdit.compile.report import Report, refused, remedies
from jdit.compile.topology import Topology
from jdit.conditioning import Labels
from jdit.data import Digits
from jdit.models import DiT
from jdit.parallel import Mesh
from jdit.recipe import Recipe, Sampling, Training

ROOT = Path(__file__).parents[2]

RECIPE = Recipe(
    "tiny",
    DiT((8, 8), 1, dim=32, depth=3, heads=2, conditioning=Labels(10), remat="block"),
    Digits("train"),
    training=Training(batch=16, ema=(0.9,)),
    sampling=Sampling(steps=3, batch=16),
)


def eight() -> None:
    """Print what is tested below; run with eight devices."""
    report = compile_recipe(RECIPE, "cpu")
    memory = report.memory
    assert memory is not None
    print(
        json.dumps(
            {
                "chips": report.chips,
                "arguments": memory.arguments,
                "total": memory.total,
                "state": report.state,
                "flops": report.flops,
                "program": report.program_flops,
                "model": report.work.model_flops,
                "exchanges": [(e.kind, e.size, e.sent) for e in report.exchanges],
                "guessed": any(k.guessed for k in report.kernels),
            }
        )
    )


@pytest.fixture(scope="module")
def spread() -> dict:
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=8"
    out = subprocess.run(
        [sys.executable, "-c", "import test_report; test_report.eight()"],
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{Path(__file__).parent}",
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert not out.returncode, out.stderr[-2000:]
    return json.loads(out.stdout.splitlines()[-1])


def parameters() -> int:
    shapes = jax.eval_shape(RECIPE.model.init, jax.random.key(0))
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_each_device_has_the_state_and_its_part_of_the_batch(spread):
    assert spread["chips"] == 8
    batch = 2 * (4 * 8 * 8 + 4)
    assert spread["arguments"] == pytest.approx(spread["state"] + batch, rel=0.01)
    assert spread["state"] == pytest.approx(4 * parameters(), rel=0.01)


def test_gradients_are_summed_over_all_devices(spread):
    kinds = {kind for kind, size, _ in spread["exchanges"] if size == 8}
    sent = sum(sent for _, size, sent in spread["exchanges"] if size == 8)
    assert "all-reduce" in kinds
    assert sent == pytest.approx(2 * 7 / 8 * parameters(), rel=0.1)


def test_the_devices_share_the_products_and_compute_layers_again(spread):
    assert not spread["guessed"]
    assert spread["model"] < 8 * spread["flops"] < 1.5 * spread["model"]
    assert 8 * spread["flops"] < spread["program"] < 2 * 8 * spread["flops"]


def test_the_command_line_reports_sampling_here(capsys):
    words = "--model.depth 2 --model.dim 16 --model.heads 2 --sampling.steps 2"
    words += " --sampling.batch 8 --topology cpu --what sample"
    main(["compile", "digits", *words.split()])
    out = " ".join(capsys.readouterr().out.split())
    for word in (
        "sample, on cpu",
        "temporaries",
        "TFLOP a chip",
        "no time is modelled",
    ):
        assert word in out


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("--topology v5x:4x4", "v4, v5e, v5p, v6e"),
        ("--topology v5e", "such as v5e:16x16"),
        ("--topology v5e:4xx4", "such as v5e:16x16"),
        ("--topology v5e:4x4x4", "2 axes"),
        ("--topology 0xv5e:4x4", "or 2xv5e:16x16 for two slices"),
        ("--topology cpu --mesh.data 3", "mesh"),
        ("--topology cpu --what paint", "--what"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        main(["compile", "digits", *words.split()])
    assert stop.value.code
    assert sentence in capsys.readouterr().err


def test_without_libtpu_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"jdit\[tpu\]"):
        topology("v5e:4x4")


class Place:
    def __init__(self, *coords: int) -> None:
        self.coords = coords


@pytest.mark.parametrize(
    "kind, shape, first, links",
    [
        ("v5e", (16, 16), range(16), 2),  # a row, closed to a ring
        ("v5e", (16, 16), range(256), 4),
        ("v5e", (4, 4), range(16), 2),  # two open axes
        ("v5e", (4, 4), [0], 0),
        ("v5p", (4, 4, 4), range(64), 6),
        ("v5p", (2, 2, 1), range(4), 2),
    ],
)
def test_a_group_sends_over_the_links_of_its_axes(kind, shape, first, links):
    def places(shape):
        if not shape:
            return [()]
        return [(i, *rest) for i in range(shape[0]) for rest in places(shape[1:])]

    order = [Place(*place) for place in places(shape)]
    where = Topology("x", tuple(order), CHIPS[kind], shape)
    group = Group(len(list(first)), tuple(first))
    assert where.rate(group, order) == links * CHIPS[kind].link_rate


LIMIT = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 73.80G of 15.75G hbm. Exceeded hbm capacity by 58.05G."  # noqa: E501


def test_a_refusal_says_how_much_is_missing_and_what_would_help():
    refusal = refused(LIMIT)
    assert refusal is not None
    assert refusal.needed - refusal.limit == pytest.approx(58.05 * 2**30)
    assert refused("RESOURCE_EXHAUSTED: (384.00G) exceeds available HBM (15.75G).")
    assert refused("INVALID_ARGUMENT: no such thing") is None
    from jdit.compile.programs import work

    recipe = replace(RECIPE, training=replace(RECIPE.training, batch=64))
    recipe = replace(recipe, model=replace(recipe.model, remat="none"))
    where = topology("cpu")
    job = work(recipe, "train", where.devices[:1])
    one = Topology("cpu", where.devices[:1], None)
    report = Report(recipe, "train", one, job, 0.0, refusal=refusal)
    block, accumulate, fewer = remedies(report)
    assert "--model.remat block" in block
    assert "--training.accumulate 8:" in accumulate  # 73.8 / (0.95 x 15.75) is 4.93
    assert "--training.batch 12:" in fewer


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
@pytest.mark.parametrize("name", ["v5e:2x2", "v6e:2x2", "v5p:2x2x1", "v4:2x2x1"])
def test_the_step_compiles_for_tpus_that_are_not_there(name):
    report = compile_recipe(RECIPE, name)
    assert report.chips == 4 and report.memory is not None
    assert not any(kernel.guessed for kernel in report.kernels)
    # A chip does its quarter, and computes layers again; XLA counts more than products.
    assert report.work.model_flops < 4 * report.flops < 1.5 * report.work.model_flops
    assert 4 * report.flops < 1.2 * report.program_flops
    assert {e.kind for e in report.exchanges} >= {"all-reduce"}
    assert 0 < report.bound <= report.serial


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_between_slices_gradients_alone_are_sent():
    """Each chip sends the sum of its slice's gradients for a quarter of them."""
    training = replace(RECIPE.training, batch=16)
    recipe = replace(RECIPE, training=training, mesh=Mesh(fsdp=4))
    report = compile_recipe(recipe, "2xv5e:2x2")
    assert report.chips == 8 and report.where.slices == 2
    among = [e for e in report.exchanges if e.slices]
    assert {(e.kind, e.size) for e in among} == {("all-reduce", 2)}
    params = sum(x.nbytes for x in jax.tree.leaves(report.work.state.params))
    assert 0.2 * params < sum(e.bytes for e in among) < 0.4 * params
    assert all(e.seconds == e.sent / CHIPS["v5e"].dcn_rate for e in among)
    inside = compile_recipe(replace(recipe, mesh=Mesh(data=1, fsdp=4)), "v5e:2x2")
    assert not any(e.slices for e in inside.exchanges)
    with pytest.raises(ValueError, match="mesh.data is 1, but there are 2 slices"):
        compile_recipe(replace(recipe, mesh=Mesh(data=1, fsdp=8)), "2xv5e:2x2")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_a_step_too_large_is_refused_with_numbers():
    model = replace(RECIPE.model, grid=(64, 64), dim=512, depth=12, remat="none")
    training = replace(RECIPE.training, batch=4 * 256)
    report = compile_recipe(replace(RECIPE, model=model, training=training), "v5e:2x2")
    assert report.refusal is not None and report.memory is None
    assert report.refusal.needed > report.refusal.limit
    assert report.refusal.limit == pytest.approx(CHIPS["v5e"].hbm, rel=0.01)
    assert remedies(report)
