# SPDX-License-Identifier: Apache-2.0
"""Gaussian processes: one table for what is predicted, one 2x2 solve to convert."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jdit.processes.paths import Coefficients, Linear, Path
from jdit.typing import Array, Float, Key

Target = Literal["noise", "x_0", "v", "velocity", "score"]


class Prediction(NamedTuple):
    """What the network says, in every solver's terms.

    x_0, noise: with `x_t = alpha x_0 + sigma noise`, always consistent.
    variance: the learned interpolation `v` of Improved DDPM (equation 15), in
        [-1, 1] where trained, or None.
    """

    x_0: Float[Array, "b *g c"]
    noise: Float[Array, "b *g c"]
    variance: Float[Array, "b *g c"] | None = None


def expand(time: Float[Array, "..."], like: Float[Array, "..."]) -> Array:
    """A scalar, or one number per example, ready to multiply `like`."""
    time = jnp.asarray(time, jnp.float32)
    return time.reshape(time.shape + (1,) * (like.ndim - time.ndim))


@dataclass(frozen=True)
class Gaussian:
    """Data becomes noise along a Gaussian path, and `target` is what is predicted.

    Each target is a row `(a, b)` of one table: `target = a x_0 + b noise`. Together
    with `x_t = alpha x_0 + sigma noise` it gives x_0 and noise by a 2x2 solve.
    """

    path: Path = Linear()
    target: Target = "velocity"

    def prior(self, key: Key, like: Float[Array, "b *g c"]) -> Float[Array, "b *g c"]:
        """A draw from the distribution at time 1: Gaussian of scale sigma(1)."""
        sigma = self.path(jnp.ones(())).sigma
        return sigma * jax.random.normal(key, like.shape, jnp.float32)

    def corrupt(
        self, key: Key, x_0: Float[Array, "b *g c"], time: Float[Array, " b"]
    ) -> tuple[Float[Array, "b *g c"], Prediction]:
        """Noised data `x_t`, and the (x_0, noise) it was made of."""
        noise = jax.random.normal(key, x_0.shape, jnp.float32)
        at = self.path(expand(time, x_0))
        return at.alpha * x_0 + at.sigma * noise, Prediction(x_0, noise)

    def scale(self, x_t: Float[Array, "b *g c"], time: Array) -> Float[Array, "b *g c"]:
        """What the network is shown of x_t; EDM's paths scale it to unit variance."""
        return x_t

    def row(self, target: Target, at: Coefficients) -> tuple[Array, Array]:
        """The table: coefficients of x_0 and of noise in a target."""
        zero, one = jnp.zeros_like(at.alpha), jnp.ones_like(at.alpha)
        match target:
            case "x_0":
                return one, zero
            case "noise":
                return zero, one
            case "v":  # Salimans and Ho (2022), section 4
                return -at.sigma, at.alpha
            case "velocity":  # d x_t / d time
                return at.d_alpha, at.d_sigma
            case "score":  # of the distribution at this time, given x_0
                return zero, -1 / at.sigma
        raise ValueError(
            f"target is {target!r}, but it must be one of 'noise', 'x_0', 'v', "
            "'velocity' and 'score'"
        )

    def predict(
        self, output: Float[Array, "b *g e"], x_t: Float[Array, "b *g c"], time: Array
    ) -> Prediction:
        """x_0 and noise from the network's output, which may carry a variance."""
        channels = x_t.shape[-1]
        variance = output[..., channels:] if output.shape[-1] > channels else None
        at = self.path(expand(time, x_t))
        a, b = self.row(self.target, at)
        det = at.alpha * b - at.sigma * a
        value = output[..., :channels].astype(jnp.float32)
        x_0 = (b * x_t - at.sigma * value) / det
        noise = (at.alpha * value - a * x_t) / det
        return Prediction(x_0, noise, variance)

    def express(
        self, prediction: Prediction, time: Array, *, to: Target
    ) -> Float[Array, "b *g c"]:
        """A prediction in the terms of any target."""
        a, b = self.row(to, self.path(expand(time, prediction.x_0)))
        return a * prediction.x_0 + b * prediction.noise
