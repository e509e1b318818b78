# SPDX-License-Identifier: Apache-2.0
"""Exact resume, with processes that are really killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jdit.checkpoint import Checkpoints

PROGRAM = Path(__file__).with_name("tiny.py")
STEPS = 30


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), "--steps", str(STEPS), *options],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_while_saving(process: subprocess.Popen[str], folder: Path, step: int) -> bool:
    """SIGKILL as soon as a checkpoint after `step` is being written; was it in time?"""
    while process.poll() is None:
        parts = list(folder.glob("*.orbax-checkpoint-tmp"))
        if any(int(part.name.split(".")[0]) > step for part in parts):
            process.kill()
            process.wait()
            return any(part.exists() for part in parts)
        time.sleep(0.0005)
    return False


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def saved(folder: Path) -> list[int]:
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.steps()


def test_killed_and_resumed_is_bitwise_the_run_never_killed(tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    step = random.Random(2).randrange(6, 20)

    killed = start(broken, "--die-at", str(step))
    output, _ = killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL, output
    before = saved(broken)

    uninterrupted = start(whole)
    writing = start(broken)
    last = before[-1] if before else 0
    torn = kill_while_saving(writing, broken / "checkpoints", last)
    assert torn, writing.communicate()  # the checkpoint was not complete
    assert set(before) <= set(saved(broken))  # and those before it are usable

    assert "done=True" in finish(start(broken))
    finish(uninterrupted)
    with np.load(whole / "final.npz") as want, np.load(broken / "final.npz") as have:
        assert set(want) == set(have) and len(want) > 100
        for name in want:  # parameters, averages, optimizer, step, key
            np.testing.assert_array_equal(want[name], have[name], err_msg=name)
    states = []
    for folder in (whole, broken):
        data = folder / "checkpoints" / str(STEPS) / "data" / "metadata"
        states.append(json.loads(data.read_text()))
    assert states[0] == states[1] and states[0]["state"]["next_index"] == STEPS
    logs = [(f / "metrics.jsonl").read_text().splitlines() for f in (whole, broken)]
    for log in logs:  # nothing twice, nothing missing
        assert [json.loads(line)["step"] for line in log] == [5, 10, 15, 20, 25, 30]
