# SPDX-License-Identifier: Apache-2.0
"""A weighted sum of objectives."""

from dataclasses import dataclass
from typing import Any

import jax

from jdit.objectives.base import Network, Objective
from jdit.processes import Gaussian
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class Term:
    """An objective in a sum: a name for its parameters and metrics, and a weight."""

    name: str
    objective: Objective
    weight: float = 1.0


@dataclass(frozen=True)
class Sum:
    """`sum of weight * objective`; each term's parameters live under its name.

    All terms are given the same key, hence the same times and noise where they draw
    them alike; each calls the network itself. Metrics are prefixed by the term's name.

    Raises ValueError for no terms, or two of one name.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"terms are named {names}, but a sum needs at least one, and names "
                "that differ"
            )

    def parameters(self, key: Key, model: Any) -> Params:
        keys = jax.random.split(key, len(self.terms))
        pairs = zip(self.terms, keys, strict=True)
        return {term.name: term.objective.parameters(k, model) for term, k in pairs}

    def __call__(
        self,
        key: Key,
        network: Network,
        params: Params,
        process: Gaussian,
        x_0: Float[Array, "b *g c"],
        conditions: Conditions,
    ) -> tuple[Float[Array, " b"], dict[str, Array]]:
        total: Any = 0.0
        metrics: dict[str, Array] = {}
        for term in self.terms:
            owned = params.get(term.name, {})
            losses, extra = term.objective(
                key, network, owned, process, x_0, conditions
            )
            total = total + term.weight * losses
            metrics[term.name] = losses.mean()
            metrics |= {f"{term.name}/{name}": value for name, value in extra.items()}
        return total, metrics
