# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import start

from jdit.checkpoint import Checkpoints, named, rebuild
from jdit.pretrained import assemble, dissect, export, load, load_export, start_from
from jdit.recipe import Recipe
from jdit.stack import Context
from jdit.surgery import Chain, Int8, LoRA, LowRank, Quantise
from jdit.surgery.base import is_leaf
from tests.train.tiny import tiny


@flax.struct.dataclass
class State:
    """A state with all that real ones have: nested names, an array-like leaf, a key."""

    step: Any
    params: Any
    ema: Any
    key: Any


def state(step: int, size: int = 4) -> State:
    kernel = Context(vector=jnp.full((2, size), step, jnp.float32))
    big = jax.random.normal(jax.random.key(step), (100, 100))
    params = {
        "b": big,
        "a": {"kernel": kernel, "int8": jnp.arange(size, dtype=jnp.int8)},
    }
    half = {"a": {"bias": jnp.full((size,), step, jnp.bfloat16)}}
    return State(jnp.int32(step), params, (half, half), jax.random.key(step))


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for name, x in named(a).items():
        y = named(b)[name]
        assert x.dtype == y.dtype, name
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=name)


def fill(folder: Path, *losses: float, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for i, loss in enumerate(losses):
        checkpoints.save(state(i), {"next": i}, {"recipe": i}, loss=loss)
        checkpoints.wait()
    return checkpoints


def test_a_checkpoint_comes_back_whole(tmp_path: Path):
    with fill(tmp_path, 3.0, 2.0) as checkpoints:
        found = checkpoints.restore(state(9))
        same(found.state, state(1))
        assert (found.step, found.data, found.about) == (1, {"next": 1}, {"recipe": 1})
        same(checkpoints.restore(jax.eval_shape(lambda: state(9)), 0).state, state(0))


def test_the_latest_and_the_best_are_kept(tmp_path: Path):
    with fill(tmp_path, 3.0, 1.0, 2.0, 5.0, 4.0) as checkpoints:
        assert checkpoints.steps() == [1, 3, 4]
        assert checkpoints.find() == 4 and checkpoints.find("best") == 1
        assert checkpoints.find(3) == 3
    with Checkpoints(tmp_path, read_only=True) as again:
        assert again.find("best") == 1
        same(again.restore(state(0), "best").state, state(1))


def test_saving_is_safe_from_donation(tmp_path: Path):
    """What is overwritten in place while it is written is saved as it was."""
    overwrite = jax.jit(lambda x: {"a": x["a"] * 0 - 1}, donate_argnums=0)
    now = state(1).replace(params={"a": jnp.arange(3_000_000, dtype=jnp.float32)})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(now, {}, {}, loss=1.0)
        params = overwrite(now.params)
        assert params["a"][0] == -1
        checkpoints.wait()
        found = checkpoints.restore(now.replace(params=params))
    np.testing.assert_array_equal(
        np.asarray(found.state.params["a"]), np.arange(3_000_000, dtype=np.float32)
    )


def test_a_step_is_saved_once(tmp_path: Path):
    with fill(tmp_path, 1.0) as checkpoints:
        assert not checkpoints.save(state(0), {}, {}, loss=0.0)


def test_what_was_not_finished_is_not_there(tmp_path: Path):
    with fill(tmp_path, 1.0, 1.0):
        pass
    torn = tmp_path / "7.orbax-checkpoint-tmp"
    (torn / "state").mkdir(parents=True)
    (torn / "state" / "_METADATA").write_text("{")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.find() == 1
        same(checkpoints.restore(state(0)).state, state(1))


def test_none_and_unknown_steps_are_one_sentence(tmp_path: Path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
            checkpoints.restore(state(0))
    with fill(tmp_path, 1.0, 1.0) as checkpoints:
        with pytest.raises(FileNotFoundError, match="of step 5 in .*; there are 0, 1"):
            checkpoints.restore(state(0), 5)


def truncate(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and "commit_success" not in file.name:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("item", ["state/d", "state/ocdbt.process_0/d", "state"])
def test_a_truncated_checkpoint_is_one_sentence(tmp_path: Path, item: str):
    with fill(tmp_path, 1.0, 1.0):
        pass
    truncate(tmp_path / "1" / item)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"/1 is damaged .*; delete it to use 0"):
            checkpoints.restore(state(0))
        same(checkpoints.restore(state(9), 0).state, state(0))


def test_truncated_metadata_is_one_sentence(tmp_path: Path):
    with fill(tmp_path, 1.0, 1.0):
        pass
    truncate(tmp_path / "1")
    with pytest.raises(ValueError, match=r"/1 is damaged .*; delete it to use the"):
        Checkpoints(tmp_path)


def test_a_foreign_checkpoint_names_the_array_that_differs(tmp_path: Path):
    with fill(tmp_path, 1.0) as checkpoints:
        with pytest.raises(
            ValueError,
            match=r"another model: its params/a/int8 is \(4,\), not \(8,\)"
            r"|another model: its params/a/kernel/vector is \(2, 4\), not \(2, 8\)",
        ):
            checkpoints.restore(state(0, size=8))
        more = state(0).replace(params={**state(0).params, "c": jnp.ones(2)})
        with pytest.raises(ValueError, match="another model: it has no params/c"):
            checkpoints.restore(more)
        less = state(0).replace(ema=())
        with pytest.raises(ValueError, match="it has ema/0/a/bias, which this model"):
            checkpoints.restore(less)


def test_a_tree_is_its_named_arrays():
    tree = state(3)
    assert "params/a/kernel/vector" in named(tree) and "ema/1/a/bias" in named(tree)
    same(rebuild(tree, {**named(tree), "key": jax.random.key_data(tree.key)}), tree)


def params_of(recipe: Recipe) -> dict[str, Any]:
    params = start(recipe.model)
    return {**params, "objective": {"projector": jnp.ones(3)}}


def test_an_export_is_the_model(tmp_path: Path):
    recipe = tiny()
    params = params_of(recipe)
    loaded = load_export(export(tmp_path / "run" / "export", recipe, params, step=7))
    assert loaded.model == recipe.model and loaded.process == recipe.process
    assert loaded.sampling == recipe.sampling and loaded.classes == ("a", "b", "c")
    assert loaded.about["step"] == 7 and "jax" in loaded.about["versions"]
    params.pop("objective")
    same(loaded.params, params)
    model, again = load(tmp_path / "run")  # a run, by its folder
    x, time, label = jnp.ones((2, 4, 4, 1)), jnp.ones(2), jnp.arange(2)
    have, want = (model.apply(p, x, time, {"label": label}) for p in (again, params))
    np.testing.assert_array_equal(have.prediction, want.prediction)


def test_a_bfloat16_export_is_half_as_large_and_close(tmp_path: Path):
    recipe, sizes = tiny(), {}
    params = start(recipe.model)
    for dtype in ("float32", "bfloat16"):
        folder = export(tmp_path / dtype, recipe, params, dtype=dtype)
        sizes[dtype] = (folder / "model.safetensors").stat().st_size
        for name, x in named(load_export(folder).params).items():
            assert x.dtype == jnp.float32
            np.testing.assert_allclose(x, named(params)[name], rtol=2**-8)
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]
    with pytest.raises(ValueError, match="dtype is 'int4', but"):
        export(tmp_path, recipe, params, dtype="int4")


def test_array_like_leaves_keep_their_class():
    inner = Context(vector=jnp.ones((2, 3)))
    tree = {"x": {"kernel": Context(vector=inner, text=jnp.zeros(2, jnp.int8))}}
    arrays, nodes = dissect(tree)
    assert set(arrays) == {"x/kernel/vector/vector", "x/kernel/text"}
    same(assemble(arrays, json.loads(json.dumps(nodes))), tree)


def test_adapted_and_quantised_kernels_survive_both_ways(tmp_path: Path):
    recipe = tiny()
    params = start(recipe.model)
    surgery = Chain((Quantise(), LoRA(rank=2)))
    model, params = surgery(recipe.model, params, jax.random.key(1))
    kinds = {type(x) for x in jax.tree.leaves(params, is_leaf=is_leaf)}
    assert {LowRank, Int8} <= kinds
    now = state(0).replace(params=params)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(now, {}, {}, loss=1.0)
        checkpoints.wait()
        same(checkpoints.restore(now).state, now)
    same(load_export(export(tmp_path, recipe, params)).params, params)


def test_a_damaged_or_hostile_export_is_one_sentence(tmp_path: Path):
    recipe = tiny()
    folder = export(tmp_path, recipe, start(recipe.model))
    parts, weights = folder / "model.json", folder / "model.safetensors"
    good = parts.read_text()
    parts.write_text(good[:100])
    with pytest.raises(ValueError, match="model.json is damaged"):
        load_export(folder)
    parts.write_text(good.replace("jdit.models.dit:DiT", "os:system"))
    with pytest.raises(ValueError, match="there is no class 'os:system'"):
        load_export(folder)
    parts.write_text(good)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        load_export(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="has no model.safetensors"):
        load_export(folder)
    with pytest.raises(FileNotFoundError, match="no trained model 'no-such'"):
        load("no-such")


def test_training_may_start_from_an_export_of_the_same_shapes(tmp_path: Path):
    recipe = tiny()
    trained = jax.tree.map(lambda x: x + 1, start(recipe.model))
    folder = str(export(tmp_path, recipe, trained))
    same(start_from(folder, jax.jit(recipe.model.init)(jax.random.key(1))), trained)
    with pytest.raises(ValueError, match="is of another model: its "):
        start_from(folder, jax.tree.map(lambda x: x[..., :1], trained))
