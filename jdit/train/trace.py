# SPDX-License-Identifier: Apache-2.0
"""A profiler's trace of some steps of a run."""

from pathlib import Path
from typing import Any

import jax


class Trace:
    """Records what the devices do from the first to the last of some steps.

    folder: which gets JAX's trace, for TensorBoard's profiler or Perfetto. steps: the
    first and the last, counted from 1, or None.

    Raises ValueError for steps that are none.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None) -> None:
        if steps is not None and not 1 <= steps[0] <= steps[1]:
            raise ValueError(
                f"profile is {steps}, but it must be the first and the last step to "
                "trace, counted from 1"
            )
        self.folder, self.steps, self.running = folder, steps, False

    def before(self, step: int) -> None:
        """Start, if that step is the first."""
        if self.steps is not None and step == self.steps[0]:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, results: Any) -> None:
        """Stop, if that step was the last, once its results are there."""
        if self.running and self.steps is not None and step >= self.steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Stop, if it is still running."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
