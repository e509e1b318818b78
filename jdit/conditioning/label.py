# SPDX-License-Identifier: Apache-2.0
"""Class labels, with a null class for classifier-free guidance."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.typing import Array, Conditions, Float, Int, Key, Params


@dataclass(frozen=True)
class Labels:
    """A table of class vectors; the row after the last class is the null condition.

    classes: number of classes; labels are 0 ... classes - 1, and `classes` is null.
    dropout: how often training replaces a label by the null one (DiT: 0.1). With 0 the
        table has no null row, as in DiT, and guidance is an error.
    """

    classes: int
    dropout: float = 0.1

    def init(self, key: Key, dim: int) -> Params:
        rows = self.classes + (self.dropout > 0)
        return {"table": 0.02 * jax.random.normal(key, (rows, dim))}

    def apply(self, params: Params, conditions: Conditions) -> Float[Array, "b d"]:
        return params["table"][self._label(conditions)]

    def null(self, conditions: Conditions) -> Conditions:
        """The same conditions without the label."""
        if not self.dropout:
            raise ValueError(
                "Labels.dropout is 0, so the model has no null class to be guided "
                "from; train with a dropout above 0, or sample without guidance"
            )
        label = self._label(conditions)
        return {**conditions, "label": jnp.full_like(label, self.classes)}

    def drop(self, key: Key, conditions: Conditions) -> Conditions:
        """Replace each label by the null one with probability `dropout`."""
        if not self.dropout:
            return conditions
        label = self._label(conditions)
        dropped = jax.random.bernoulli(key, self.dropout, label.shape)
        return {**conditions, "label": jnp.where(dropped, self.classes, label)}

    def check(self, label: Any) -> None:
        """Raise ValueError for a label the model does not know.

        `label` must be known on the host. Eager calls and the tracing of constants
        are checked by themselves; a label that is an argument of a jitted function
        cannot be, so entry points check it before they call one.
        """
        label = np.asarray(label)
        if not np.issubdtype(label.dtype, np.integer):
            raise ValueError(f"label has dtype {label.dtype}, but it must be integer")
        low, high = int(label.min(initial=0)), int(label.max(initial=0))
        last = self.classes - (self.dropout == 0)
        if low < 0 or high > last:
            raise ValueError(
                f"label is {low if low < 0 else high}, but this model knows labels "
                f"0 to {self.classes - 1}"
                + (f" ({self.classes} is the null class)" if self.dropout else "")
            )

    def _label(self, conditions: Conditions) -> Int[Array, " b"]:
        if "label" not in conditions:
            raise ValueError(
                f"conditions has {sorted(conditions) or 'no entries'}, but this model "
                "needs 'label': an integer array with one label per image"
            )
        label = conditions["label"]
        if not isinstance(label, jax.core.Tracer):
            if getattr(label, "is_fully_addressable", True):  # not on another host
                self.check(label)
        return label
