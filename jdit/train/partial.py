# SPDX-License-Identifier: Apache-2.0
"""Training some of the parameters: those that are, as a tree with holes.

A hole is None, an empty node to JAX. So a gradient, moments and averages of such a tree
have nothing there, and their other leaves keep the paths of their parameters, by which
they are sharded and saved.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from jdit.recipe import Recipe, Training
from jdit.surgery.base import path_string
from jdit.typing import Params


def trained(training: Training, params: Params) -> Params:
    """The parameters that `training.trainable` names, holes elsewhere; all for ().

    Raises ValueError for a pattern that names none, and for parameters that have no
    gradient (whole numbers).
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    paths = [path_string(path) for path, _ in leaves]
    for pattern in training.trainable:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"training.trainable has {pattern!r}, which is in the path of no "
                f"parameter; paths are such as {', '.join(paths[:8])}"
            )

    def pick(path: str, x: Any) -> Any:
        if training.trainable and not any(
            re.search(pattern, path) for pattern in training.trainable
        ):
            return None
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise ValueError(
                f"training.trainable is {training.trainable}, but {path} is {x.dtype}, "
                "which has no gradient: name other parameters, such as 'kernel/[ab]$'"
            )
        return x

    picked = [pick(path, x) for path, (_, x) in zip(paths, leaves, strict=True)]
    return jax.tree.unflatten(structure, picked)


def filled(part: Params, params: Params) -> Params:
    """A tree with holes, which are filled with what `params` has there."""
    return jax.tree.map(
        lambda own, other: other if own is None else own,
        part,
        params,
        is_leaf=lambda x: x is None,
    )


def operated(recipe: Recipe, params: Params) -> tuple[Any, Params]:
    """The model and its parameters after the recipe's surgery, if it has any.

    An objective's own parameters are not the model's, and stay.
    """
    if recipe.surgery is None:
        return recipe.model, params
    own = {name: tree for name, tree in params.items() if name != "objective"}
    key = jax.random.fold_in(jax.random.key(recipe.training.seed), 3)
    model, changed = recipe.surgery(recipe.model, own, key)
    return model, {**params, **changed}


def model_of(recipe: Recipe) -> Any:
    """The model that is trained: the recipe's, after its surgery. Computes nothing."""
    if recipe.surgery is None:
        return recipe.model
    found = []

    def run() -> Params:
        params = recipe.model.init(jax.random.key(recipe.training.seed))
        model, params = operated(recipe, params)
        found.append(model)
        return params

    jax.eval_shape(run)
    return found[0]
