# SPDX-License-Identifier: Apache-2.0
"""The command line on a tiny recipe: train, resume, sample, eval, inspect, mistakes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jdit.cli import keep_compiled, main

RECIPE = """
from jdit.conditioning import Labels
from jdit.data import Digits
from jdit.models import DiT
from jdit.recipe import Recipe, Sampling, Training


def recipe():
    return Recipe(
        name="tiny",
        model=DiT(grid=(8, 8), channels=1, patch=4, dim=16, depth=2, heads=2,
                  conditioning=Labels(10)),
        data=Digits("train"),
        training=Training(steps=20, batch=8, log_every=10, checkpoint_every=10,
                          learning_rate=1e-2, ema=(0.5,)),
        sampling=Sampling(steps=2, per_class=2, batch=20),
    )
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, str]:
    """The recipe's file and the folder of a finished run."""
    root = tmp_path_factory.mktemp("cli")
    file = root / "tiny.py"
    file.write_text(RECIPE)
    main(["train", str(file), "--folder", str(root / "run")])
    return str(file), str(root / "run")


def fails(capsys, *argv: str) -> str:
    """The one sentence that a mistaken command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code
    return capsys.readouterr().err or str(stop.value.code)


def test_training_leaves_everything_a_run_promises(trained):
    folder = Path(trained[1])
    for name in (
        "metrics.jsonl",
        "metrics.csv",
        "loss.png",
        "samples.png",
        "recipe.py",
    ):
        assert (folder / name).stat().st_size > 0, name
    records = [json.loads(s) for s in (folder / "metrics.jsonl").open()]
    assert [record["step"] for record in records] == [10, 20]
    assert (folder / "export" / "model.safetensors").is_file()


def test_the_same_command_continues_a_run(trained, capsys):
    file, folder = trained
    main(["train", file, "--folder", folder, "--training.steps", "30"])
    records = [json.loads(s) for s in (Path(folder) / "metrics.jsonl").open()]
    assert [record["step"] for record in records] == [10, 20, 30]


def test_what_was_asked_to_stop_draws_and_scores_nothing(trained, monkeypatch):
    told: Any = SimpleNamespace(done=False)
    monkeypatch.setattr("jdit.train.fit", lambda *_, **__: told)
    monkeypatch.setattr("jdit.train.report", lambda *_: pytest.fail("it was drawn"))
    main(["train", trained[0], "--folder", trained[1]])


def test_compiled_programs_are_kept_where_nothing_says_otherwise(monkeypatch):
    given, said = jax.config.jax_compilation_cache_dir, []
    monkeypatch.setattr(jax.config, "update", lambda *pair: said.append(pair))
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    keep_compiled()
    assert given and not said  # the tests have a place of their own
    monkeypatch.setattr(
        jax,
        "config",
        SimpleNamespace(jax_compilation_cache_dir=None, update=jax.config.update),
    )
    keep_compiled()
    assert said == [("jax_compilation_cache_dir", "/cache/jdit/compiled")]


def test_samples_depend_on_seed_and_number_alone(trained, tmp_path):
    _, folder = trained
    base = ["sample", folder, "--labels", "3", "1", "--count", "3", "--seed", "5"]
    for name, extra in {
        "a": [],
        "b": ["--batch", "2"],
        "other": ["--seed", "6"],
        "solver": ["--solver", "Heun", "--steps", "3", "--guidance", "1.5"],
        "interval": ["--guidance", "2", "--interval", "0.2", "0.8"],
        "policy": ["--policy", "Reuse(2)"],
    }.items():
        main([*base, *extra, "--out", str(tmp_path / f"{name}.npz")])
    drawn = {p.stem: np.load(p) for p in tmp_path.glob("*.npz")}
    assert drawn["a"]["x_0"].shape == (6, 8, 8, 1)
    assert drawn["a"]["label"].tolist() == [3, 3, 3, 1, 1, 1]
    np.testing.assert_allclose(drawn["a"]["x_0"], drawn["b"]["x_0"], atol=1e-5)
    for name in ("other", "solver", "policy"):
        assert np.abs(drawn[name]["x_0"] - drawn["a"]["x_0"]).max() > 1e-3


def test_samples_as_a_grid_and_as_single_pictures(trained, tmp_path):
    _, folder = trained
    main(["sample", folder, "--count", "2", "--out", str(tmp_path / "grid.png")])
    width, height = Image.open(tmp_path / "grid.png").size
    assert height == 5 * width  # ten rows of two
    main(["sample", folder, "--labels", "7", "--out", str(tmp_path / "one")])
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["00000-7.png"]


def test_inspect_counts_without_allocating(capsys):
    before = sum(x.nbytes for x in jax.live_arrays())
    main(["inspect", "digits", "--model.dim", "1152", "--model.depth", "28"])
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 2**20
    out = capsys.readouterr().out
    assert "dim = 1152" in out and "4 x 4 = 16" in out and "GFLOP per image" in out


def test_inspected_flops_grow_with_depth_and_match_the_products():
    from jdit import DiT
    from jdit.conditioning import Labels
    from jdit.inspect import flops

    def model(depth: int) -> DiT:
        return DiT((16, 16), 4, dim=64, depth=depth, heads=2, conditioning=Labels(5))

    layer = flops(model(3)) - flops(model(2))
    n, d = 64, 64
    products = 2 * n * 12 * d * d + 4 * n * n * d + 2 * 6 * d * d
    assert products <= layer < 1.35 * products  # the rest is elementwise


@pytest.mark.parametrize("unroll", [1, 2, 3, 5, 9])
def test_inspected_flops_count_every_pass_of_a_loop(unroll):
    from jdit.inspect import cost

    def program(x):
        def chunk(row):
            return row @ x

        def layer(x, _):
            return jax.checkpoint(lambda x: jax.lax.map(chunk, x))(x), None

        return jax.lax.scan(layer, x, None, length=5, unroll=unroll)[0]

    square = jax.ShapeDtypeStruct((16, 16), "float32")
    counted = cost(jax.make_jaxpr(program)(square))
    assert counted == pytest.approx(5 * 2 * 16**3, rel=0.01)


def test_help_lists_fields_of_parts(capsys):
    with pytest.raises(SystemExit):
        main(["train", "digits", "--help"])
    out = capsys.readouterr().out
    for field in ("--model.depth", "--model.clock.scale", "--training.ema", "--resume"):
        assert field in out


@pytest.mark.parametrize("name", ["digits", "glyphs_64"])
def test_every_field_of_a_recipe_can_be_set(name, capsys):
    with pytest.raises(SystemExit):
        main(["train", name, "--help"])
    assert "fixed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["paint", "digits"], "is not a command"),
        (["train", "no_such_recipe"], "no recipe"),
        (["train", "missing.py"], "not a file"),
        (["train", "digits", "--model.depht", "3"], "--model.depth"),
        (["train", "digits", "--model.patch", "3"], "does not divide"),
        (["train", "digits", "--training.steps", "0"], "at least 1"),
        (["train", "digits", "--training.steps", "many"], "many"),
        (["sample", "nowhere"], "no trained model"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, argv, words):
    assert words in fails(capsys, *argv)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels", "10"], "out of range"),
        (["--labels", "cat"], "out of range"),
        (["--solver", "Magic"], "must be one of"),
        (["--steps", "0"], "at least 1"),
        (["--count", "0"], "at least 1"),
        (["--out", "x.jpeg"], ".png"),
    ],
)
def test_a_mistaken_sample_is_one_sentence(trained, capsys, options, words):
    assert words in fails(capsys, "sample", trained[1], *options)


@pytest.mark.parametrize(
    "name, words",
    [
        ("pixart_alpha", ("610,856,096", "GFLOP per image")),
        ("dico", ("GFLOP per image",)),
        ("lavin_dit", ("3,398,976,064", "not counted: conditions['shown']")),
    ],
)
def test_families_are_inspected_at_full_size(capsys, name, words):
    main(["inspect", name])
    out = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in out
