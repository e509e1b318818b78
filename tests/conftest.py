# SPDX-License-Identifier: Apache-2.0
"""Settings of every test: the CPU, compiled programs kept, shapes checked."""

import gc
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jdit-test-cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tests compile much and compute little: less optimisation is half the time.
FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # unknown to later ones
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")
gc.set_threshold(100_000)  # tracing makes many objects, and little garbage

import pytest  # noqa: E402
from jaxtyping import config, install_import_hook  # noqa: E402

# Every signature's shapes are checked while the tests run, and only then.
sys.path.insert(0, str(Path(__file__).parent))
install_import_hook("jdit", "shape_check.check")


@pytest.fixture
def unchecked():
    """What a user sees who gives wrong shapes: the library's own sentence."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
