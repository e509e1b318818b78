# SPDX-License-Identifier: Apache-2.0
"""Meshes, rules and groups of processes: what needs no second device."""

from dataclasses import dataclass, replace
from typing import Any

import album
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jdit import parallel
from jdit.parallel import AXES, Group, Mesh, Rules, group_of
from jdit.parallel.columns import rounds
from jdit.parallel.mesh import INNER, grid, inside
from jdit.train.fit import plan_of
from tests.train.tiny import tiny

ONES = dict.fromkeys(AXES, 1)


def on(**sizes: int) -> dict[str, int]:
    return ONES | sizes


def test_one_axis_is_what_the_others_leave():
    assert Mesh().sizes(8) == on(data=8)
    assert Mesh(fsdp=4).sizes(8) == on(data=2, fsdp=4)
    assert Mesh(2, -1, 2).sizes(16) == on(data=2, fsdp=4, tensor=2)
    assert Mesh(1, 1, 1, 1, 1).sizes(1) == ONES


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [
        (dict(data=3, fsdp=2), 8, "mesh is data 3 x fsdp 2, 6 in all, but there are 8"),
        (dict(fsdp=3), 8, "but 3 does not divide the 8 devices"),
        (dict(data=1), 8, "mesh is one device, 1 in all, but there are 8 devices"),
        (dict(tensor=0), 8, "mesh.tensor is 0, but it must be at least 1, or -1"),
        (dict(guidance=4), 8, "mesh.guidance is 4, but it must be 1 or 2: a guided"),
        (dict(fsdp=-1), 8, "mesh.data and mesh.fsdp are both -1, but only one"),
    ],
    ids=["product", "rest", "one", "zero", "guidance", "two"],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(sizes, count, message):
    with pytest.raises(ValueError, match=message):
        Mesh(**sizes).sizes(count)


def test_the_first_rule_that_is_found_splits_the_last_axes():
    rules = Rules((("mlp/in/kernel$", "fsdp tensor"), ("mlp", "_ data+fsdp")), rest="")
    sizes = on(data=2, fsdp=4, tensor=2)
    spec = rules.spec("blocks/mlp/in/kernel", (3, 8, 6), sizes)
    assert spec == P(None, "fsdp", "tensor")
    assert rules.spec("mlp/out/kernel", (8, 16), sizes) == P(None, ("data", "fsdp"))
    assert rules.spec("final/kernel", (8, 16), sizes) == P(None, None)
    one = rules.spec("blocks/mlp/in/kernel", (3, 8, 6), on(fsdp=2))
    assert one == P(None, "fsdp", None)  # an axis of size 1 splits nothing


def test_a_question_mark_leaves_whole_what_is_not_divided():
    sizes = on(fsdp=4, tensor=4)
    soft, hard = (Rules((("x", f"fsdp{mark} tensor"),)) for mark in ("?", ""))
    assert soft.spec("x", (6, 8), sizes) == P(None, "tensor")
    with pytest.raises(ValueError, match="axis 0 of x, of size 6, over fsdp, but 4"):
        hard.spec("x", (6, 8), sizes)
    with pytest.raises(ValueError, match="splits 2 axes of x, which has 1"):
        hard.spec("x", (8,), sizes)


def test_what_no_rule_names_is_split_along_its_longest_axis_but_not_along_layers():
    rules, sizes = replace(parallel.fsdp, smallest=64), on(fsdp=4)
    assert rules.spec("a", (28, 8, 16), sizes) == P(None, None, "fsdp")
    assert rules.spec("a", (28, 8, 6), sizes) == P(None, "fsdp", None)
    assert rules.spec("a", (28, 6, 6), sizes) == P(None, None, None)
    assert rules.spec("a", (16, 8), sizes) == P("fsdp", None)
    assert rules.spec("a", (3, 4), sizes) == P(None, None)  # too small
    assert parallel.dp.spec("a", (1024, 1024), sizes) == P(None, None)


@dataclass(frozen=True)
class Chip:
    """What is asked of a TPU to place it; those of two slices."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    process_index: int = 0


def chips(side: int, platform: str = "tpu") -> Any:
    places = [(s, x, y) for s in (1, 0) for x in range(side) for y in range(side)]
    return [Chip(i, s, (x, y, 0), platform) for i, (s, x, y) in enumerate(places)]


def test_slices_hold_parts_of_data_and_all_of_the_other_axes():
    placed = grid(chips(4), on(data=4, fsdp=8)).squeeze()
    assert placed.shape == (4, 8) and len({chip.id for chip in placed.flat}) == 32
    found = [{chip.slice_index for chip in row} for row in placed]
    assert found == [{0}, {0}, {1}, {1}]
    with pytest.raises(ValueError, match="mesh.data is 1, but there are 2 slices: mak"):
        grid(chips(2), on(fsdp=8))
    hosts = grid(chips(2, "gpu"), on(fsdp=8)).squeeze()  # of GPUs: no slices
    assert [chip.id for chip in hosts] == list(range(8))


def test_fsdp_is_two_axes_where_none_of_a_parameter_is_divided_by_it():
    square, wide = ("blocks/q/kernel", (28, 1152, 1152)), ("a", (1152, 4096))
    sizes, rules = on(fsdp=256), Rules()
    assert rules.divide(sizes, [wide]) == inside(sizes, 1)
    parts = rules.divide(sizes, [square, wide])
    assert parts == inside(sizes, 2) and parts["fsdp"] == 128
    assert rules.spec(*square, parts) == P(None, "fsdp", INNER)
    assert rules.spec("else", (28, 1152, 1152), parts) == P(None, INNER, "fsdp")
    assert rules.spec(*wide, parts) == P(None, ("fsdp", INNER))  # as one axis would
    three = rules.divide(on(fsdp=256, tensor=2), [square])
    assert rules.spec(*square, three) == P(None, "fsdp", ("tensor", INNER))
    assert rules.spec("blocks/q/kernel", (28, 1152, 9), parts) == P(None, "fsdp", None)
    with pytest.raises(ValueError, match="axis 0 of q, of size 1152, over fsdp, but"):
        Rules((("q", "fsdp _"),)).divide(sizes, [("q", (1152, 1152))])


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("count", [2, 3, 4, 6, 8, 9])
def test_columns_are_exchanged_in_as_many_rounds_as_there_are_parts(count, parts):
    sent, targets, got = rounds(count, parts)
    for c in range(parts):
        for device in range(count):
            at = got[c, device]
            source = list(targets[at]).index(device)
            assert parts * source + sent[at, source] == count * c + device
    assert all(sorted(row) == list(range(count)) for row in targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rules((("x", "fsdp model"),)), "the rule 'x' of sharding.rules has"),
        (lambda: Rules(rest="all"), "sharding.rest has the axis 'all', but a mesh has"),
        (lambda: Rules((("(", "fsdp"),)), r"the pattern '\(', which is no regular"),
    ],
    ids=["axis", "rest", "pattern"],
)
def test_a_wrong_rule_is_one_sentence(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", sorted(album.ALBUM))
def test_every_family_has_a_place_for_all_parameters(name: str):
    """By the default rules; and its matrices are split over both axes."""
    shapes = jax.eval_shape(album.ALBUM[name].model.init, jax.random.key(0))
    sizes, rules = on(fsdp=2, tensor=2), replace(Rules(), smallest=1)
    total = split = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        keys = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = rules.spec(keys, leaf.shape, sizes)
        parts = np.prod([sizes[axis] for axis in spec if axis], dtype=int)
        total, split = total + leaf.size, split + leaf.size / parts
    assert split < 0.6 * total


TORCH = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "80"}
JAX = {
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
    "JAX_COORDINATOR_ADDRESS": "b:90",
}
SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
CPU = {"JAX_PLATFORMS": "cpu"}


@pytest.mark.parametrize(
    ("environ", "group"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (TORCH, Group("a:80", 4, 3, [])),
        (
            TORCH | {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"},
            Group("a:80", 4, 3, [1]),
        ),
        (TORCH | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, Group("a:81", 4, 3, [])),
        (JAX | TORCH, Group("b:90", 2, 1)),
        (SLURM | {"SLURM_STEP_NUM_NODES": "4"}, Group(local_device_ids=[])),
        (SLURM | {"SLURM_STEP_NUM_NODES": "2"}, Group()),
    ],
    ids=["alone", "one", "torch", "local", "elastic", "jax", "node", "task"],
)
def test_a_group_is_found_in_the_environment(environ: Any, group: Any):
    assert group_of(CPU | environ) == group


@pytest.mark.parametrize("missing", sorted(TORCH)[:3])
def test_half_a_group_is_one_sentence(missing: str):
    environ = {name: value for name, value in TORCH.items() if name != missing}
    with pytest.raises(ValueError, match=f"WORLD_SIZE=4 but no {missing}: several"):
        group_of(CPU | environ)


def test_one_device_needs_no_plan():
    one = jax.devices()[:1]
    assert plan_of(tiny(), one) is None
    with pytest.raises(ValueError, match="mesh is fsdp 8, 8 in all|8 does not divide"):
        plan_of(replace(tiny(), mesh=Mesh(fsdp=8)), one)
