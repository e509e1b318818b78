# SPDX-License-Identifier: Apache-2.0
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import pytest
import tyro

from jdit.conditioning import Labels
from jdit.models import DiT
from jdit.objects import from_json, from_text, to_json
from jdit.policies import Forecast, PerBranch, Reuse
from jdit.processes import Gaussian
from jdit.recipe import (
    Constant,
    Cooldown,
    Cosine,
    Recipe,
    Sampling,
    Schedule,
    Training,
    load_recipe,
)
from jdit.surgery import LoRA

MODEL = DiT(grid=(4, 6), channels=1, dim=32, depth=2, heads=2, conditioning=Labels(3))

FILE = """
from jdit.models import DiT
from jdit.recipe import Recipe

def recipe():
    return Recipe("mine", DiT(grid=(4, 4), dim=32, depth=1, heads=2), data=None)
"""


def write(folder: Path, text: str) -> str:
    file = folder / "mine.py"
    file.write_text(text)
    return str(file)


def test_a_recipe_is_read_from_a_file_with_its_source(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, FILE))
    assert recipe.name == "mine" and recipe.model.grid == (4, 4)
    assert recipe.source == FILE


def test_a_short_name_is_a_module_of_experiments():
    short, full = load_recipe("digits"), load_recipe("experiments.digits")
    assert short == full and short.name == "digits"
    assert "def recipe()" in short.source


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("no/such.py", FileNotFoundError, "no/such.py is not a file"),
        ("no_such", ModuleNotFoundError, "no recipe 'no_such'"),
        ("no.such", ModuleNotFoundError, "no recipe 'no.such'"),
        ("jdit.typing", ImportError, "no function recipe"),
    ],
)
def test_a_missing_recipe_is_one_sentence(name: str, kind: type, words: str):
    with pytest.raises(kind, match=words):
        load_recipe(name)


def test_a_recipe_of_another_type_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="returned dict, but it must return a jdit"):
        load_recipe(write(tmp_path, "def recipe():\n    return {}\n"))


def test_every_part_can_be_set_by_its_path():
    start = Recipe(
        "r", MODEL, None, training=Training(schedule=Cosine()), sampling=Sampling()
    )
    arguments = "--model.dim 64 --training.ema 0.9 0.99 --sampling.steps 7"
    arguments += " --training.schedule.final 0.5 --process.target noise"
    changed = tyro.cli(Recipe, default=start, args=arguments.split())
    assert changed == replace(
        start,
        model=replace(MODEL, dim=64),
        process=Gaussian(target="noise"),
        training=Training(schedule=Cosine(final=0.5), ema=(0.9, 0.99)),
        sampling=Sampling(steps=7),
    )


def test_a_policy_and_a_surgery_can_be_set_by_their_path():
    start = Recipe("r", MODEL, None, surgery=LoRA(8))
    start = replace(start, sampling=Sampling(policy=Reuse(2)))
    arguments = "--surgery.rank 4 --sampling.policy.interval 3"
    arguments += " --training.trainable kernel/[ab]$ bias$"
    changed = tyro.cli(Recipe, default=start, args=arguments.split())
    assert changed == replace(
        start,
        surgery=LoRA(4),
        sampling=Sampling(policy=Reuse(3)),
        training=Training(trainable=("kernel/[ab]$", "bias$")),
    )


@pytest.mark.parametrize(
    "text, part",
    [
        ("Reuse(3)", Reuse(3)),
        (" Forecast(4, order=2)", Forecast(4, order=2)),
        ('PerBranch({"mlp": Reuse(2)})', PerBranch({"mlp": Reuse(2)})),
    ],
)
def test_a_part_is_read_as_it_is_written(text: str, part: object):
    assert from_text(text, KNOWN, "policy") == part


KNOWN = {"Reuse": Reuse, "Forecast": Forecast, "PerBranch": PerBranch}


@pytest.mark.parametrize(
    "text, words",
    [
        ("Reuse", "policy is 'Reuse', but it must be written with Forecast, PerBranch"),
        ("exit(1)", "must be written with"),
        ("Reuse(exit(1))", "must be written with"),
        ("Reuse(2).__class__(3)", "must be written with"),
        ("Reuse(", "policy is 'Reuse\\(', but"),
        ("Reuse(wings=2)", "unexpected keyword argument"),
        ("Reuse(0)", "interval is 0, but it must be at least 1"),
    ],
)
def test_nothing_else_is_read(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        from_text(text, KNOWN, "policy")


@pytest.mark.parametrize(
    "field, words",
    [
        (dict(steps=0), "training.steps is 0, but it must be at least 1"),
        (dict(batch=10, accumulate=4), "training.accumulate is 4, which does not"),
        (dict(ema=(1.0,)), "each decay must be in"),
        (dict(ema=(0.9,), ema_sampled=1), "training.ema_sampled is 1, but"),
        (dict(clip=0.0), "training.clip is 0.0, but"),
        (dict(keep=0), "training.keep is 0"),
    ],
)
def test_a_wrong_training_field_is_one_sentence(field: dict, words: str):
    with pytest.raises(ValueError, match=words):
        Training(**field)
    with pytest.raises(ValueError, match="sampling.steps is 0"):
        Sampling(steps=0)


def test_schedules_have_their_ends_and_middles():
    def at(schedule: Schedule) -> list[float]:
        return [float(schedule(jnp.float32(p))) for p in (0, 0.5, 1)]

    assert at(Constant()) == [1, 1, 1]
    assert at(Cosine()) == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert at(Cosine(0.2)) == pytest.approx([1, 0.6, 0.2], abs=1e-6)
    assert at(Cooldown(0.5)) == pytest.approx([1, 1, 0], abs=1e-6)
    assert float(Cooldown(0.5)(jnp.float32(0.75))) == pytest.approx(0.5)


def test_parts_survive_json():
    parts = [MODEL, Gaussian(), Sampling(), Training(schedule=Cosine()), math.inf, None]
    for part in parts:
        assert from_json(json.loads(json.dumps(to_json(part)))) == part
    assert math.isnan(from_json(to_json(math.nan)))
    assert from_json(to_json({"a": (1, 2.5)})) == {"a": (1, 2.5)}


@dataclass(frozen=True)
class Foreign:
    field: int = 1


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"conditioning is a .*Foreign"):
        to_json(replace(MODEL, conditioning=Foreign()))
    with pytest.raises(TypeError, match=r"\[1\] is a .*set"):
        to_json((1, {2}))
    record = to_json(replace(MODEL, conditioning=Foreign()), strict=False)
    assert record["fields"]["conditioning"]["fields"] == {"field": 1}
    assert to_json({1, 2}, strict=False) == {"repr": "{1, 2}"}


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:Popen",
        "jdit.nowhere:DiT",
        "jdit.models.dit:Nothing",
        "jdit.models.dit:jax",
        "jdit.models.dit:dit",
        "jdit.models.dit:Output",
        "jdit.models.dit:Labels",  # defined elsewhere
        "jdit.models.dit:DiT.init",
        "experiments.digits:recipe",
        f"{__name__}:Foreign",
        "",
    ],
)
def test_json_makes_nothing_but_parts_of_jdit(name: str):
    with pytest.raises(ValueError, match="there is no class"):
        from_json({"class": name, "fields": {}})


def test_unknown_fields_and_shapes_of_json_are_named():
    form = to_json(MODEL)
    form["fields"]["wings"] = 2
    with pytest.raises(ValueError, match="DiT has no field 'wings'; it has"):
        from_json(form)
    with pytest.raises(ValueError, match="is not the JSON form"):
        from_json({"fields": {}})
