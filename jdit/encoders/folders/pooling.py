# SPDX-License-Identifier: Apache-2.0
"""How sentence-transformers pools, as a folder's modules.json says it."""

import json
from pathlib import Path
from typing import Any

from jdit.interop.files import read_json

_MODES = dict(
    pooling_mode_mean_tokens="mean",
    pooling_mode_cls_token="class",
)
_KINDS = ("Transformer", "Pooling", "Normalize")


def read_pooling(folder: Path) -> dict[str, Any]:
    """`pooling` and `unit` of a Bert; {} for a folder without modules.json.

    Raises ValueError for a module or a mode of pooling that is not supported.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    modules = json.loads(path.read_text())
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    for kind in kinds:
        if kind not in _KINDS:
            raise ValueError(
                f"{path} has a module {kind!r}, but only {', '.join(_KINDS)} are "
                "supported"
            )
    chosen: dict[str, Any] = dict(unit="Normalize" in kinds)
    if "Pooling" in kinds:
        where = folder / modules[kinds.index("Pooling")]["path"] / "config.json"
        on = [k for k, v in read_json(where).items() if k.startswith("pooling_") and v]
        if len(on) != 1 or on[0] not in _MODES:
            raise ValueError(
                f"{where} has {' and '.join(on) or 'no pooling'}, but supported is one "
                f"of {', '.join(_MODES)}"
            )
        chosen["pooling"] = _MODES[on[0]]
    return chosen
