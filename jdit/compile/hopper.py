# SPDX-License-Identifier: Apache-2.0
"""Hopper GPUs that are not there, for XLA's CUDA compiler on a machine without any."""

import importlib.util
from typing import Any

import jax

from jdit.compile.chips import GPUS

_DESCRIPTION = """
gpu_device_info {{
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448 l2_cache_size: 52428800
  device_memory_size: {memory:.0f} memory_bandwidth: {rate:.0f}
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""
"""What XLA asks a device of compute capability 9.0 (CUDA's programming guide, table of
technical specifications; 132 multiprocessors and 50 MiB of L2 on the SXM cards)."""


def hopper(kind: str = "H200") -> Any:
    """One device, "H100" or "H200", to compile for: its programs cannot run here.

    XLA times nothing then, so what it tunes by timing stays at its defaults. Needs
    JAX's CUDA plugin (the extra `cuda`), but no GPU. Raises ImportError without it.
    """
    names = ("jax_cuda13_plugin", "jax_cuda12_plugin")
    if not any(importlib.util.find_spec(name) for name in names):
        raise ImportError(
            f"compiling for {kind} needs JAX's CUDA plugin, which is not installed: "
            "pip install 'jdit[cuda]'"
        )
    from jax.experimental import topologies

    if getattr(jax.config, "jax_platforms", None) is None:  # nothing will run
        jax.config.update("jax_platforms", "cpu")
    chip = GPUS[kind]
    said = _DESCRIPTION.format(name=chip.name, memory=chip.hbm, rate=chip.hbm_rate)
    found = topologies.get_topology_desc(
        "", platform="cuda", target_config=said, topology="1x1x1"
    )
    return found.devices[0]
