# SPDX-License-Identifier: Apache-2.0
"""Several real processes on this machine, which train one model together."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_dit import awake

from jdit.conditioning import Labels
from jdit.models import DiT
from jdit.pretrained import export
from jdit.recipe import Recipe, Sampling

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("group.py")


def start(
    folder: Path, count: int, devices: int, *options: tuple[str, ...], command: Any = ()
) -> Any:
    """So many processes of so many devices each; options: of each process.

    command: what they run; the program beside this file if not given.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    path = f"{ROOT}:{ROOT}/tests/train:{folder}"
    given = {"XLA_FLAGS": flags, "PYTHONPATH": path}
    given |= {"NPROC": "32"}  # threads: each collective of each device waits in one
    if count > 1:
        given |= {"JAX_NUM_PROCESSES": str(count), "JAX_COORDINATOR_ADDRESS": address}
    program = [sys.executable, *(command or (str(PROGRAM), str(folder)))]
    return [
        subprocess.Popen(
            [*program, *(options[i] if options else ())],
            env={**os.environ, **given, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


def ended(processes: Any) -> list[str]:
    """What each said; all of them have ended well."""
    outputs = []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output
            outputs.append(output)
    finally:
        for process in processes:
            process.kill()
    return outputs


def finish(processes: Any) -> list[dict[str, Any]]:
    lines = [output.splitlines() for output in ended(processes)]
    found = [next(x for x in said if x.startswith("said ")) for said in lines]
    return [json.loads(line.removeprefix("said ")) for line in found]


def final(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "final.npz") as file:
        return dict(file)


def gap(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path: Path):
    """SIGTERM to one stops both; both go on; then one process of as many devices."""
    alone = tmp_path / "alone"
    (one,) = finish(start(alone, 1, 4))
    assert not one["joined"] and one["done"] and one["share"] == [0, 1]

    together = tmp_path / "together"
    options = ((), ("--term-at", "4"))
    said = finish(start(together, 2, 2, *options))
    assert [s["share"] for s in said] == [[0, 2], [1, 2]]
    assert all(s["joined"] and s["devices"] == 4 and not s["done"] for s in said)
    scores = json.loads((together / "scores.json").read_text())["scores"]
    assert said[0]["scores"] == said[1]["scores"] == scores  # of a checkpoint
    stopped = said[0]["step"]
    assert said[1]["step"] == stopped and 4 < stopped < 12
    said = finish(start(together, 2, 2))
    assert all(s["done"] and s["step"] == 12 for s in said)
    assert gap(final(together), final(alone)) < 1e-5
    for other in said:  # each drew its share of every batch
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-4)
    records = (together / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in records]
    assert steps == sorted({*range(2, 13, 2), stopped})  # by the first alone
    assert (together / "samples.png").is_file()
    assert len(list((together / "tensorboard").iterdir())) == 2  # one file a start


@pytest.mark.slow
def test_one_of_two_is_killed_and_all_start_again(tmp_path: Path):
    whole, broken, fewer = (tmp_path / name for name in ("whole", "broken", "fewer"))
    finish(start(whole, 2, 4))
    other, killed = start(broken, 2, 4, (), ("--die-at", "8"))
    killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL
    other.kill()  # as a scheduler does, in the middle of a collective
    other.communicate()
    subprocess.run(["cp", "-r", str(broken), str(fewer)], check=True)
    finish(start(broken, 2, 4))
    assert gap(final(whole), final(broken)) == 0  # the same mesh: bit by bit
    finish(start(fewer, 1, 4))
    assert gap(final(whole), final(fewer)) < 1e-5


@pytest.mark.slow
def test_a_process_restores_in_the_memory_of_its_own_shards():
    """512 MiB in four arrays, a quarter of each is a process's, by whomever written.

    On CPU, devices are in host memory too: what is read is there twice for a moment.
    """
    program = ROOT / "benchmarks" / "restore.py"
    done = subprocess.run(
        [sys.executable, str(program), "--processes", "4", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"4, split", "1, whole"}
    for said in found.values():
        assert len(said) == 4
        for one in said:
            assert 4 * one["held"] == one["whole"] == 512 * 2**20
            assert one["held"] < one["grown"] < 2.5 * one["held"]


NET = """
import numpy as np

KERNEL = np.random.default_rng(5).normal(size=(48, 6)).astype(np.float32)


def net(images):
    return np.tanh(np.asarray(images).reshape(len(images), -1) @ KERNEL / 8)
"""


@pytest.mark.slow
def test_two_processes_make_one_score(tmp_path: Path):
    """Of drawn images and of a reference: each process has its share of both."""
    model = DiT(grid=(4, 4), channels=3, dim=32, depth=1, heads=2)
    model = replace(model, conditioning=Labels(5))
    sampling = Sampling(steps=2, batch=8)
    recipe = Recipe("tiny", model, data=None, sampling=sampling)
    export(tmp_path / "run" / "export", recipe, awake(model))
    (tmp_path / "shared_net.py").write_text(NET)
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (70, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "real.npz", arr_0=real)

    def scored(count: int, devices: int, out: str) -> tuple[list[str], Any]:
        words = ["-m", "jdit", "eval", str(tmp_path / "run"), "--count", "50"]
        words += ["--reference", str(tmp_path / "real.npz")]
        words += ["--features", "shared_net:net", "--out", str(tmp_path / out)]
        said = ended(start(tmp_path, count, devices, command=words))
        return said, json.loads((tmp_path / out / "scores.json").read_text())

    said, two = scored(2, 2, "two")
    assert sum("protocol: " in output for output in said) == 1  # the first's alone
    _, one = scored(1, 1, "one")
    assert two["scores"] == pytest.approx(one["scores"], rel=1e-4, abs=1e-6)
    assert two["protocol"] == one["protocol"]
    assert (two["about"]["processes"], two["about"]["devices"]) == (2, 4)
    assert not (tmp_path / "two" / "partial").exists()

    floats = np.zeros((20, 4, 4, 3), np.float32)
    floats[17] = np.nan  # in the second one's share
    np.savez(tmp_path / "nan.npz", x_0=floats)
    words = ["-m", "jdit", "eval", str(tmp_path / "nan.npz"), "--batch", "5"]
    words += ["--reference", str(tmp_path / "real.npz"), "--out", str(tmp_path / "nan")]
    words += ["--features", "shared_net:net"]
    processes = start(tmp_path, 2, 1, command=words)
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "jdit: " in said[0] and "holds parts of 10 images, not 20" in said[0]
    assert "jdit: x_0 of " in said[1] and "hold NaN or infinite values" in said[1]
