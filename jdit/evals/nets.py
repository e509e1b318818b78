# SPDX-License-Identifier: Apache-2.0
"""The feature net of a score, by its name, and what of it is in the protocol."""

import dataclasses
import importlib
from typing import Any

from jdit import evals
from jdit.evals.protocol import Protocol, params_hash, settings

_RESIZES = ("TensorFlowResize", "CleanResize", "PillowResize")


def feature_net(
    features: str, weights: str | None = None, resize: str | None = None
) -> Any:
    """The part that a name means, with its weights and its resize.

    features: of a part of jdit.evals, or "module:name". A part that must be loaded
        first, as `DigitsClassifier`, is.
    weights, resize: a file or folder, and the name of a resize in jdit.evals, with the
        size behind a colon if it is not 299; the part's own if None.

    Raises ValueError for a name that is not there, and for what the part does not take.
    """
    module, _, name = features.rpartition(":")
    try:
        kind = getattr(importlib.import_module(module or "jdit.evals"), name, None)
    except ModuleNotFoundError:
        kind = None
    if not callable(kind):
        raise ValueError(
            f"features is {features!r}, but it must be a part of jdit.evals, "
            "such as InceptionPool, or module:name"
        )
    taken = (
        {f.name for f in dataclasses.fields(kind)}
        if dataclasses.is_dataclass(kind)
        else set()
    )
    given: dict[str, Any] = {}
    if weights is not None:
        given["path"] = weights
    if resize is not None:
        kind_of, _, size = resize.partition(":")
        if kind_of not in _RESIZES or not (size or "299").isdigit():
            raise ValueError(
                f"resize is {resize!r}, but it must be one of {', '.join(_RESIZES)}, "
                "with a size such as :224 behind it if that is not 299"
            )
        given["resize"] = getattr(evals, kind_of)(int(size or 299))
    for field, option in (("path", "weights"), ("resize", "resize")):
        if field in given and field not in taken:
            raise ValueError(f"{features} takes no {option}")
    net = kind(**given) if isinstance(kind, type) else kind
    return net.load() if hasattr(net, "load") else net


def net_fields(net: Any) -> Protocol:
    """The feature net, the hash of its weights, and its resize."""
    name = getattr(net, "__name__", type(net).__name__)
    rest = settings(net, ("path", "resize", "sha256"))
    weights = params_hash(net.params) if hasattr(net, "params") else None
    resize = getattr(net, "resize", None)
    return {
        "features": f"{name}({rest})" if rest else name,
        "features_hash": weights,
        "resize": None if resize is None else repr(resize),
    }
