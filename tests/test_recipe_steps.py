# SPDX-License-Identifier: Apache-2.0
"""Every recipe trains: two real steps of its own parts, with a tiny network.

Only sizes change, and what costs time here and means nothing else (bfloat16, remat).
What a recipe chose beside them stays: the kind of conditioning, the process, the
objective, the optimizer, and the reader of its data, for which a file of random arrays
is written. Every parameter must move, and every average.
"""

from dataclasses import fields, replace
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from safetensors.numpy import save_file
from synthetic_data import encoded_folder

import experiments
from jdit.conditioning import Labels
from jdit.conditioning.shown import Shown
from jdit.data import Dataset, Encoded, Latents
from jdit.models.ddt import Tower
from jdit.recipe import Recipe, load_recipe
from jdit.train import TrainState, abstract_state, batches_of, make_step

NAMES = sorted(module.name for module in iter_modules(experiments.__path__))

ROWS = 4
TEXT = 5
PLAIN = dict(dim=32, depth=2, heads=2)
TOWER = Tower(16, 1, 2, 24)
GROUPED = dict(PLAIN, groups=1, hidden=32)

SMALL: dict[str, dict[str, Any]] = {
    "CogVideoX": dict(PLAIN, condition=24),
    "DDT": dict(encoder=TOWER, decoder=TOWER),
    "DiCo": dict(dim=16, depths=(1, 1, 1, 1, 1)),
    "DiMR": {},
    "DiT": PLAIN,
    "DiTDH": dict(encoder=TOWER, decoder=Tower(32, 1, 2, 40)),
    "FIT": dict(
        dim=16,
        heads=2,
        latent_dim=24,
        latent_heads=2,
        latents=2,
        groups=(2, 2),
        patch=2,
        layers=((1, 1), (1, 0)),
    ),
    "FlagDiT": GROUPED,
    "FlagDiTLabels": GROUPED,
    "Flux": dict(PLAIN, depth=1, single_depth=1),
    "GlyphMMDiT": PLAIN,
    "HunyuanDiT": dict(PLAIN, depth=4, pooled=6),
    "HunyuanVideo": dict(PLAIN, depth=1, single_depth=1, refiner_depth=1),
    "LTXVideo": PLAIN,
    "LaVinDiT": dict(GROUPED, dim=24),
    "Latte": dict(PLAIN, depth=1),
    "LightningDiT": dict(PLAIN, hidden=40),
    "MMDiT": PLAIN,
    "NextDiT": GROUPED,
    "NextDiTLabels": GROUPED,
    "PixArt": PLAIN,
    "QwenImage": PLAIN,
    "UViT": PLAIN,
    "VDT": PLAIN,
    "Wan": dict(PLAIN, dim=24, hidden=32, text_tokens=TEXT),
}
"""Sizes of the tiny network of each family; `small` shrinks what many have."""

WIDTHS = {"features": 12, "second_features": 16, "pooled": 10}
WIDTHS |= {"length": TEXT, "second_length": TEXT}
"""Of encoded text, where a conditioning has them."""

IDLE = {
    "last_blocks/attention/text/q_norm/scale",
    "blocks/attention/text_norm/bias",  # the same for all keys, and none is turned
}
"""Parameters that published weights hold and no output depends on."""


class Stranger:
    """A model of no family."""


def small(model: Any) -> Any:
    """The model in little: fewer and narrower layers on fewer tokens."""
    family = type(model).__name__
    if family not in SMALL:
        pytest.fail(
            f"the recipe trains a {family}, of which this test knows no tiny form: add "
            "its sizes to SMALL",
            pytrace=False,
        )
    changes: dict[str, Any] = dict(SMALL[family], dtype="float32", remat="none")
    has = {field.name for field in fields(model)}
    *frames, _, _ = model.grid
    changes["grid"] = (*(min(n, 2) for n in frames), 8, 8)
    told = model.conditioning
    widths = {k: v for k, v in WIDTHS.items() if getattr(told, k, None) is not None}
    if widths:
        changes["conditioning"] = replace(told, **widths)
    for name, axes in (("geometry", (4, 4, 8)), ("rotary", (8, 8))):
        if name in has and getattr(model, name) is not None:
            changes[name] = replace(getattr(model, name), axes=axes)
    if getattr(model, "dual_layers", 0):
        changes["dual_layers"] = 1
    if getattr(model, "compression", None) is not None:
        changes["compression"] = replace(model.compression, layers=1)
    if "levels" in has:
        changes["levels"] = tuple(
            replace(x, dim=16, hidden=24, depth=2, heads=x.heads and 2)
            for x in model.levels
        )
    return replace(model, **changes)


def columns(model: Any, names: tuple[str, ...], channels: int) -> dict[str, Any]:
    """Random examples for a model, with the conditions of these names."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.normal(size=(ROWS, *shape)).astype(np.float32)

    text = model.conditioning
    wide = lambda name: getattr(text, name, None) or 0  # noqa: E731
    real = np.arange(TEXT) < rng.integers(1, TEXT, (ROWS, 1))
    known = {
        "label": np.arange(ROWS, dtype=np.int32) % 3,
        "text": draw(TEXT, wide("features")),
        "mask": real,
        "pooled": draw(wide("pooled")),
        "second_text": draw(TEXT, wide("second_features")),
        "second_mask": real,
        "guidance": 1 + np.abs(draw()),
        "shown": draw(4, *model.sample_shape[1:]),
    }
    unknown = set(names) - set(known)
    if unknown:
        pytest.fail(
            f"the recipe's data tells {sorted(unknown)}, of which this test makes no "
            "arrays: add them to columns()",
            pytrace=False,
        )
    return {name: known[name] for name in names} | {"x_0": draw(*model.grid, channels)}


def data(recipe: Recipe, model: Any, folder: Path) -> Dataset:
    """The recipe's data set, reading random arrays; `Latents` for sets of images."""
    again, kind = recipe.data, ".npz"
    if isinstance(again, Encoded):
        arrays = columns(model, ("label",), 2 * model.channels)
        views = np.stack([arrays["x_0"], arrays["x_0"][:, :, ::-1]], 1)
        path = encoded_folder(folder, x_0=views, label=arrays["label"])
        return replace(again, path=str(path))
    if isinstance(again, Latents):
        kind = Path(again.path).suffix
    else:
        again = Latents("", conditions=getattr(again, "gives", ()))
    names = again.conditions
    names += ("label",) if isinstance(model.conditioning, Labels) else ()
    names += ("shown",) if isinstance(model.conditioning, Shown) else ()
    moments = again.posterior is not None
    arrays = columns(model, names, model.channels * (1 + moments))
    path = folder / f"data{kind}"
    if kind == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    return replace(again, path=str(path))


def tiny(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a tiny network, and data and a batch for it."""
    model, training = small(recipe.model), recipe.training
    objective = recipe.objective
    if hasattr(objective, "stage"):  # named after the layers of the network
        objective = replace(objective, stage=model.carried)
    return replace(
        recipe,
        model=model,
        objective=objective,
        data=data(recipe, model, folder),
        training=replace(
            training, batch=2 * training.accumulate, steps=2, warmup=0, start=""
        ),
    )


def state_of(recipe: Recipe) -> TrainState:
    """A first state of random numbers: published starts have zeros, which stay."""
    rng = np.random.default_rng(0)
    shapes = abstract_state(recipe)
    params = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape), shapes.params)

    def held(values: Any) -> Any:
        return jax.tree.map(lambda x: jnp.array(x, jnp.float32), values)

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=held(params),
        opt_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.opt_state),
        ema=tuple(held(params) for _ in shapes.ema),
        key=jax.random.key(recipe.training.seed),
        bad=jnp.full((), -1, jnp.int32),
    )


def still(old: Any, new: Any) -> list[str]:
    """The names of the arrays that are as they were."""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True
    )
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, before), after in pairs
        if np.array_equal(before, after)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_two_steps(name: str, tmp_path: Path):
    recipe = tiny(load_recipe(name), tmp_path)
    state, batches, step = state_of(recipe), batches_of(recipe), make_step(recipe)
    start = jax.device_get(state.params)
    for first in (True, False):
        batch = next(batches)
        with compilations() as compiled:
            state, metrics = step(state, batch)
        assert first or not compiled
        assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    assert int(state.step) == 2 and int(state.bad) == -1
    assert len(state.ema) == len(recipe.training.ema) > 0
    for moved in (state.params, *state.ema):
        assert set(still(start, moved)) <= IDLE


def test_a_family_without_a_tiny_form_is_named():
    with pytest.raises(pytest.fail.Exception, match="trains a Stranger, of which"):
        small(Stranger())
