# SPDX-License-Identifier: Apache-2.0
"""What full-size models are asked without being made."""

from typing import Any

import jax
import numpy as np


def count(model: Any) -> int:
    """The number of parameters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


def shape_of_prediction(model: Any, conditions: dict[str, tuple]) -> tuple[int, ...]:
    """The prediction's shape for two examples; conditions: (shape, dtype) by name."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, *model.sample_shape), np.float32)
    time = jax.ShapeDtypeStruct((2,), np.float32)
    given = {
        name: jax.ShapeDtypeStruct((2, *shape), dtype)
        for name, (shape, dtype) in conditions.items()
    }
    return jax.eval_shape(model.apply, params, x, time, given).prediction.shape
