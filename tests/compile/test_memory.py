# SPDX-License-Identifier: Apache-2.0
"""The report's memory against the peak of a run, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reported_memory_is_within_a_tenth_of_the_peak():
    words = "benchmarks/memory.py --depth 4 --batch 8".split()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    done = subprocess.run(
        [sys.executable, *words], env=env, capture_output=True, text=True, cwd=ROOT
    )
    assert not done.returncode, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["measured"] == pytest.approx(found["reported"], rel=0.1)
