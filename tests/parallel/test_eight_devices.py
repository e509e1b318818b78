# SPDX-License-Identifier: Apache-2.0
"""One run is the same on one device and on eight, and each holds its part alone."""

import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PRESETS = pytest.mark.parametrize("preset", ["dp", "fsdp", "fsdp_tensor"])
SHARES = {"dp": 1.0, "fsdp": 0.2, "fsdp_tensor": 0.4}
"""Most of the state that one device may hold."""


def run(program: str, *args: Path) -> None:
    """A program of this folder, on 8 simulated devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=8"
    more = {
        "XLA_FLAGS": flags,
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests/train",
        "NPROC": "32",  # threads: each collective of each device waits in one
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), *map(str, args)],
        env=os.environ | more,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def found(tmp_path_factory: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("eight")
    run("eight.py", folder)
    return json.loads((folder / "found.json").read_text())


@PRESETS
def test_twenty_steps_equal_those_of_a_single_device(found: Any, preset: str):
    assert found["devices"] == 8
    assert found[preset]["start"] < 1e-6
    assert found[preset]["loss"] < 1e-5
    assert found[preset]["params"] < 1e-4
    assert len(set(found["losses"])) == 20


@PRESETS
def test_each_device_holds_its_part_alone(found: Any, preset: str):
    shards = found[preset]["shards"]
    assert shards["devices"] == 8 and shards["most"] <= SHARES[preset]
    shapes = {
        name: tuple(map(tuple, parts)) for name, parts in shards["shapes"].items()
    }
    parts: dict[str, list] = {
        "blocks/mlp/in/kernel": [(2, 32, 128), (2, 32, 16), (2, 16, 64)],
        "blocks/mlp/out/kernel": [(2, 128, 32), (2, 16, 32), (2, 64, 16)],
        "blocks/attention/qkv/kernel": [(2, 32, 96), (2, 32, 12), (2, 16, 48)],
        "blocks/attention/modulation/kernel": [(2, 32, 64), (2, 32, 8), (2, 32, 32)],
        "blocks/mlp/in/bias": [(2, 128), (2, 16), (2, 64)],
    }
    which = list(SHARES).index(preset)
    for name, (whole, *split) in parts.items():
        want = (whole, [whole, *split][which])
        for where in ("params", "ema", "moments"):
            assert shapes[f"{where} {name}"] == want, (where, name)


@PRESETS
def test_no_device_sees_the_stream_of_all_examples(found: Any, preset: str):
    """Weights are gathered, a layer at a time; activations are not."""
    assert any(found["streams"]) and not any(found[preset]["streams"])


@PRESETS
def test_image_i_does_not_depend_on_the_mesh(found: Any, preset: str):
    assert found[preset]["images"] < 1e-5
    parts = 4 if preset == "fsdp_tensor" else 8
    assert found[preset]["drawn"] == [8 // parts, 4, 4, 1]
    whole, part = found[preset]["memory"]
    assert whole[1] == 16 and part == [whole[0], 16 // parts, *whole[2:]]


@pytest.mark.parametrize("kind", ["ulysses", "ring"])
def test_split_tokens_attend_as_whole_ones(found: Any, kind: str):
    """Outputs and gradients; masks, grouped heads, lengths that are no multiple."""
    assert len(found["attention"][kind]) == 3
    assert max(found["attention"][kind].values()) < 1e-5


def test_a_ring_keeps_no_more_of_the_keys_on_more_devices(found: Any):
    four, eight = found["ring memory"]
    assert eight < 1.1 * four


def test_split_tokens_are_not_gathered_to_meet_weights(found: Any):
    assert found["gathers"] == [True, False]


def test_queries_keys_and_values_are_not_exchanged_under_tensor(found: Any):
    """Columns of their kernel are, which here is a fiftieth of it."""
    beside = found["beside"]
    moves = ["collective-permute", "all-to-all"]
    plain, columns = (
        sum(beside.get(f"{name} {kind}", 0) for kind in moves)
        for name in ("plain", "columns")
    )
    assert 0 < columns < plain / 50
    assert beside["columns all-reduce"] == beside["plain all-reduce"]
    assert beside["columns gap"] < 1e-5


@pytest.mark.parametrize(
    "of", ["dit tensor_ring", "mmdit ring", "latte ulysses", "odd fsdp"]
)
def test_twenty_steps_of_other_models_equal_those_of_a_single_device(
    found: Any, of: str
):
    loss, params = found["steps"][of]
    assert loss < 1e-5 and params < 1e-4


def test_widths_that_fsdp_does_not_divide_are_split_along_two_axes(found: Any):
    """8 devices and a width of 12: no matrix is whole on any of them."""
    assert found["odd"]["attention out"] == [[2, 12, 12], [2, 6, 3]]
    for whole, part in found["odd"].values():
        assert prod(part) * 8 == prod(whole)


@pytest.mark.slow
def test_twenty_steps_of_every_model_under_every_split(tmp_path: Path):
    file = tmp_path / "found.json"
    run("split.py", file)
    found = json.loads(file.read_text())
    assert len(found) == 35
    wrong = {of: gaps for of, gaps in found.items() if gaps[0] > 1e-5 or gaps[1] > 1e-4}
    assert not wrong


def test_passes_of_guidance_on_different_devices_draw_the_same(found: Any):
    """4 steps under an interval and a cache, with tokens split as well."""
    assert found["guidance"]["images"] < 1e-5
    whole, part = found["guidance"]["memory"]
    assert whole[1] == 16 and part[1] == 4  # the rows of both passes


def test_micro_batches_are_split_over_all_devices_alike(found: Any):
    assert found["micro"] < 1e-5


def test_a_checkpoint_of_every_preset_is_every_other_presets(found: Any):
    """Bit by bit, and each array where it belongs."""
    crossed = found["elastic"]["crossed"]
    assert len(crossed) == 16 and all(crossed.values())


def test_a_run_goes_on_with_fewer_devices(found: Any):
    """8, 4, then 1 device: the run that was never stopped."""
    elastic = found["elastic"]
    assert elastic["gap"] < 1e-4
    assert elastic["equal"] == 0  # the export is the state's average, bit by bit
    assert elastic["loaded"] == elastic["started"] == [2, 32, 16]
    assert elastic["drawn"] and len(elastic["scores"]) == 7
    assert elastic["scores"] == pytest.approx(elastic["scores of one"], abs=1e-5)
    assert elastic["asked"] == [3, 4, 4, 1, 1, 1, 1]  # by the command line's mesh
    assert "3 does not divide the 8 devices" in elastic["refused"]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("product", "mesh is data 3 x fsdp 2, 6 in all, but there are 8 devices"),
        ("batch", "training.batch is 12, but it is split over 8 devices (data 8 x"),
        ("micro", "split over 2 micro-batches on 8 devices (data 8 x fsdp 1): make"),
        ("heads", "mesh.tensor is 4, but it must divide model.heads 2"),
        ("tokens", "mesh.sequence is 4, but under sharding.attention Ulysses it must"),
        ("guided", "mesh.guidance is 2, but a training step has no guidance"),
        ("plain", "mesh.guidance is 2, but sampling is not guided by CFG"),
        ("idle", "mesh.expert is 2, but no rule of sharding splits anything over it"),
    ],
)
def test_a_mistake_is_one_sentence(found: Any, mistake: str, message: str):
    assert message in found["mistakes"][mistake]
