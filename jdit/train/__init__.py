# SPDX-License-Identifier: Apache-2.0
"""Training: the state, the step, the loop, and its records."""

from jdit.train.fit import Batches, Fit, NonFinite, batches_of, fit, plan_of
from jdit.train.report import report, trained
from jdit.train.state import (
    TrainState,
    abstract_state,
    init_state,
    learning_rate,
    make_step,
    optimizer,
)

__all__ = [
    "Batches",
    "Fit",
    "NonFinite",
    "TrainState",
    "abstract_state",
    "batches_of",
    "fit",
    "init_state",
    "learning_rate",
    "make_step",
    "optimizer",
    "plan_of",
    "report",
    "trained",
]
