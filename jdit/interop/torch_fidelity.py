# SPDX-License-Identifier: Apache-2.0
"""The files in which torch-fidelity caches moments, in both directions."""

from pathlib import Path

import numpy as np

from jdit.evals.statistics import Statistics
from jdit.interop.files import torch_for

MOMENTS = "an .npz of moments"


def load_moments(path: str | Path) -> Statistics:
    """The moments of a "...-stat-fid-2048.pt" in torch-fidelity's cache.

    Needs torch; nothing in the file is executed (`weights_only`): it may hold plain
    arrays alone.

    Raises FileNotFoundError, ImportError without torch, and ValueError for a file that
    does not hold finite `mu` `d` and `sigma` `d d`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    torch = torch_for(path, MOMENTS)
    plain = [
        np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float64", "float32")),
    ]
    with torch.serialization.safe_globals(plain):
        try:
            found = torch.load(path, "cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds, some of them its own
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{path} is no torch file of plain arrays ({reason})"
            ) from None
    if not isinstance(found, dict) or not {"mu", "sigma"} <= found.keys():
        raise ValueError(f"{path} holds no mu and sigma, torch-fidelity's moments")
    return Statistics.checked(found["mu"], found["sigma"], str(path))


def save_moments(path: str | Path, statistics: Statistics) -> None:
    """Write what torch-fidelity reads from its cache; needs torch."""
    torch = torch_for(Path(path), MOMENTS)
    torch.save({"mu": statistics.mu, "sigma": statistics.sigma}, path)
