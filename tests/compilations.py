# SPDX-License-Identifier: Apache-2.0
"""How often XLA was asked for a program.

A jitted function's own count of programs forgets the oldest once a process has some
thousands of them, as a run of all tests has.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_open: list[list[str]] = []


def _heard(event: str, seconds: float, **details) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        for names in _open:
            names.append(details.get("fun_name", "?"))


jax.monitoring.register_event_duration_secs_listener(_heard)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the programs that the block compiled, or read from the cache."""
    names: list[str] = []
    _open.append(names)
    try:
        yield names
    finally:
        _open.remove(names)
