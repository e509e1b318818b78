# SPDX-License-Identifier: Apache-2.0
"""A program that keeps freed memory does, and importing jdit changes nothing."""

import subprocess
import sys

import pytest

CODE = """
import sys
import numpy as np
import jdit
from jdit.allocation import keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
before = resident()
block = np.ones(2**25, np.uint8)  # 32 MiB
del block
print(kept, round(resident() - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize("mode", ["keep", "default"])
def test_freed_memory_stays_only_when_asked(mode):
    command = [sys.executable, "-c", CODE, mode]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, grown = out.stdout.split()
    if kept == "False":
        pytest.skip("this C library has no such options")
    assert (int(grown) > 24) == (mode == "keep")
