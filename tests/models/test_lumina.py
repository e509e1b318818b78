# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from album import draw
from tiny_dit import awake, program

from jdit.conditioning import Labels, Sinusoids, Text
from jdit.interop.lumina import next_dit_to_diffusers, save_lumina
from jdit.models.lumina import (
    FlagDiT,
    Merge,
    NextDiT,
    flag_dit,
    next_dit,
    swiglu_multiple,
)
from jdit.models.lumina_labels import (
    FlagDiTLabels,
    NextDiTLabels,
    flag_dit_labels,
    next_dit_labels,
)
from jdit.recipe import load_recipe

SMALL = dict(channels=2, dim=24, depth=2, heads=2, hidden=16, conditioning=Text(6))
FLAG = FlagDiT((4, 6), groups=2, **SMALL)
NEXT = NextDiT((4, 4), patch=1, groups=1, **SMALL)
TEXT = {"text": draw(2, 3, 6)}


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "model, parameters",
    [
        (flag_dit(), 5_046_643_744),
        (next_dit(groups=32), 1_988_524_576),
        (next_dit(), 1_627_386_400),
    ],
    ids=["flag-5B", "next-2B", "next-2B-GQA"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on the published modules, without the [pad] token."""
    assert count(model) == parameters - model.dim


@pytest.mark.parametrize(
    "model, parameters",
    [
        (flag_dit_labels("600M"), 609_836_576),
        (flag_dit_labels("3B"), 4_237_824_032),
        (flag_dit_labels("7B"), 7_293_819_936),
        (next_dit_labels("600M"), 559_455_776),
        (next_dit_labels("2B"), 1_763_043_104),
        (next_dit_labels("3B"), 4_036_300_832),
        (next_dit_labels("7B"), 7_025_122_336),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_models_of_imagenet_have_the_published_parameters(model, parameters):
    """Counted on the published modules."""
    assert count(model) == parameters


def test_a_class_takes_the_place_of_text():
    plain = dict(channels=2, dim=24, depth=1, heads=2, hidden=16, groups=1)
    flag = FlagDiTLabels((4, 6), conditioning=Labels(3), **plain)
    assert flag.row().tolist() == list(range(6)) and flag.marks == ()
    model = NextDiTLabels((4, 6), conditioning=Labels(3), context_drop=1, **plain)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert "norm" not in shapes["blocks"]["mlp"] and "text" not in shapes
    assert set(shapes["blocks"]["attention"]) >= {"q", "kv", "out"}
    assert not {"gate", "text_kv"} & set(shapes["blocks"]["attention"])
    with pytest.raises(ValueError, match="needs 'label'"):
        jax.eval_shape(lambda p: model.tell(p, TEXT), shapes)
    with pytest.raises(ValueError, match="'2B', but it must be one of 600M, 3B, 7B"):
        flag_dit_labels("2B")


def test_a_line_ends_with_its_mark_and_a_frame_with_another():
    assert FLAG.row().tolist() == [0, 1, 2, 6, 3, 4, 5, 6]
    video = replace(FLAG, grid=(2, 4, 2), patch=(1, 2, 2))
    assert video.row().tolist() == [0, 4, 1, 4, 5, 2, 4, 3, 4, 5]
    assert replace(FLAG, grid=(6,)).row().tolist() == [0, 1, 2]
    shapes = jax.eval_shape(video.init, jax.random.key(0))
    assert set(shapes["marks"]) == {"nextline", "nextframe"}


def test_three_axes_share_a_head():
    assert NextDiT((2, 4, 4), **SMALL | dict(dim=24, heads=2, groups=1)).places().shape
    with pytest.raises(ValueError, match="multiple of 12"):
        NextDiT((2, 4, 4), **SMALL | dict(dim=20), groups=1)


def test_merging_is_the_mean_of_squares():
    x = jnp.arange(16.0).reshape(1, 1, 16, 1)
    np.testing.assert_array_equal(
        Merge((4, 4), 2)(x)[0, 0, :, 0], [2.5, 4.5, 10.5, 12.5]
    )


def test_context_is_dropped_at_noise_only():
    params = awake(NEXT)
    merged = replace(NEXT, context_drop=2)

    def run(model, time):
        x = draw(2, 4, 4, 2)
        return program(model)(params, x, jnp.array(time), TEXT).prediction

    at_noise, plain = run(merged, [1.0, 1.0]), run(NEXT, [1.0, 1.0])
    assert np.abs(at_noise - plain).max() > 1e-4
    np.testing.assert_array_equal(run(merged, [0.0, 0.0]), run(NEXT, [0.0, 0.0]))
    mixed = run(merged, [0.0, 1.0])
    np.testing.assert_allclose(mixed[0], run(NEXT, [0.0, 1.0])[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], at_noise[1], atol=1e-5)


@pytest.mark.parametrize(
    "model, change, words",
    [
        (FLAG, dict(groups=3), "divide heads"),
        (FLAG, dict(heads=5), "multiple of 10"),
        (FLAG, dict(depth=0), "depth is 0"),
        (FLAG, dict(base_tokens=1), "base_tokens is 1"),
        (NEXT, dict(context_drop=3), "context_drop is 3"),
    ],
    ids=["groups", "heads", "depth", "base", "drop"],
)
def test_bad_fields_say_so(model, change, words):
    with pytest.raises(ValueError, match=words):
        replace(model, **change)


def test_what_the_layouts_cannot_hold_says_so(tmp_path):
    for change, words in [
        (dict(grid=(6,)), "model.grid"),
        (dict(basis=Sinusoids(256, 10.0)), "model.basis"),
        (dict(out_channels=3), "model.out_channels"),
    ]:
        with pytest.raises(ValueError, match=words):
            save_lumina(tmp_path / "a.safetensors", replace(FLAG, **change), {})
    for model in (FLAG, next_dit_labels()):
        with pytest.raises(ValueError, match="holds a NextDiT"):
            next_dit_to_diffusers(tmp_path, model, {})


def test_inner_widths_are_rounded_up():
    assert swiglu_multiple(3072) == 8192 and swiglu_multiple(2304) == 6144
    assert swiglu_multiple(32, 8) == 88 and swiglu_multiple(32, 8, 0.5) == 48


@pytest.mark.parametrize(
    "name, size",
    [
        ("lumina_t2x", flag_dit()),
        ("lumina_next", next_dit()),
        ("flag_dit_imagenet", flag_dit_labels()),
        ("next_dit_imagenet", next_dit_labels()),
    ],
    ids=["t2x", "next", "flag-imagenet", "next-imagenet"],
)
def test_the_recipes_are_the_published_sizes(name, size):
    assert count(load_recipe(name).model) == count(size)
