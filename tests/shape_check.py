# SPDX-License-Identifier: Apache-2.0
"""The check of array shapes while tests run: beartype, on array annotations alone."""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check(function: Callable) -> Callable:
    """`beartype` that looks at jaxtyping's annotations only.

    Protocols, callables and static parts are the type checker's business; shapes are
    what it cannot see. Constructors are left alone, because JAX builds pytrees from
    things that are not arrays, or have one axis more.
    """
    if function.__name__ == "__init__":
        return function
    function.__annotations__ = {
        name: hint if _has_shape(hint) else Any
        for name, hint in function.__annotations__.items()
    }
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in get_args(hint))
