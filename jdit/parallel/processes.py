# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: found in the environment, joined before any work."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax


class Group(NamedTuple):
    """How a process finds the others: arguments of `jax.distributed.initialize`.

    Nothing given means that JAX finds it out by itself.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: list[int] | None = None


def group_of(environ: Mapping[str, str]) -> Group | None:
    """The group that environment variables speak of, or None for a process alone.

    Looked for, in this order:

        JAX_NUM_PROCESSES    with JAX_PROCESS_ID and JAX_COORDINATOR_ADDRESS (host:port)
        WORLD_SIZE           with RANK, MASTER_ADDR and MASTER_PORT, as torchrun sets
                             them; with LOCAL_WORLD_SIZE above 1, each process takes the
                             accelerator of its LOCAL_RANK, else all of its host
        SLURM_NTASKS         with SLURM_PROCID, within srun; one task a node takes all
                             accelerators of its node, several take one each
        Cloud TPU            where libtpu is installed; JAX asks the TPU's metadata

    Raises ValueError for a set of variables that is not complete.
    """
    if int(environ.get("JAX_NUM_PROCESSES") or 1) > 1:
        count, index, address = _need(
            environ, "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"
        )
        return Group(address, int(count), int(index))
    if int(environ.get("WORLD_SIZE") or 1) > 1:
        count, index, host, port = _need(
            environ, "WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"
        )
        taken = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        several = int(environ.get("LOCAL_WORLD_SIZE") or 1) > 1
        local = [int(environ.get("LOCAL_RANK") or 0)] if several else []
        return Group(f"{host}:{int(port) + taken}", int(count), int(index), local)
    if int(environ.get("SLURM_NTASKS") or 1) > 1 and "SLURM_PROCID" in environ:
        alone = environ.get("SLURM_STEP_NUM_NODES") == environ["SLURM_NTASKS"]
        return Group(local_device_ids=[] if alone else None)
    tpu = environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")
    if tpu and "TPU_SKIP_MDS_QUERY" not in environ:
        return Group() if importlib.util.find_spec("libtpu") else None
    return None


def join(environ: Mapping[str, str] | None = None) -> bool:
    """Make this process one of a run's, if the environment says so; whether it did.

    To be called before anything asks JAX for its devices. Once joined, `jax.devices()`
    are those of all processes, and SIGTERM to one of them is known to all.
    """
    if jax.distributed.is_initialized():
        return True
    group = group_of(os.environ if environ is None else environ)
    if group is None:
        return False
    found: dict[str, Any] = group._asdict()
    if group.num_processes is not None:
        found["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(**found)
    except ValueError:
        if group == Group():  # libtpu without a TPU
            return False
        raise
    return True


def _need(environ: Mapping[str, str], *names: str) -> list[str]:
    for name in names:
        if not environ.get(name):
            raise ValueError(
                f"the environment has {names[0]}={environ[names[0]]} but no {name}: "
                f"several processes need {', '.join(names)} each"
            )
    return [environ[name] for name in names]
