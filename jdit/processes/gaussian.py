# SPDX-License-Identifier: Apache-2.0
"""Gaussian processes: one table for what is predicted, one 2x2 solve to convert."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jdit.processes.paths import Coefficients, Linear, Path, sigma_data
from jdit.typing import Array, Float, Key

Target = Literal["noise", "x_0", "v", "velocity", "score", "edm"]
TARGETS: tuple[Target, ...] = get_args(Target)

SMALLEST = 1e-6
"""What a divisor is clamped to where the question has no answer (see `Gaussian`)."""


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

    Some questions have no answer: at time 0, noise or score from x_0 and x_t; where
    alpha is 0 (time 1 of rectified flow, say), x_0 from the noise and x_t. There the
    divisor is clamped to 1e-6: the result is finite, and nothing else. "x_0", "v",
    "edm" and rectified flow's "velocity" tell x_0 at every time.
    """

    path: Path = Linear()
    target: Target = "velocity"

    def __post_init__(self) -> None:
        _check("target", self.target)

    def prior(self, key: Key, like: Float[Array, "b *g c"]) -> Float[Array, "b *g c"]:
        """A draw from the distribution at time 1, as samplers start from it.

        Its scale is sigma(1), or the path's own `prior_scale`: variance-preserving
        paths start from standard normal noise, although some data is left at time 1.
        """
        scale = getattr(self.path, "prior_scale", None)
        if scale is None:
            scale = self.path(jnp.ones(())).sigma
        return scale * jax.random.normal(key, like.shape, jnp.float32)

    def corrupt(
        self, key: Key, x_0: Float[Array, "b *g c"], time: Float[Array, " b"]
    ) -> tuple[Float[Array, "b *g c"], Prediction]:
        """Noised data `x_t`, and the (x_0, noise) it was made of."""
        noise = jax.random.normal(key, x_0.shape, jnp.float32)
        at = self.path(expand(time, x_0))
        return at.alpha * x_0 + at.sigma * noise, Prediction(x_0, noise)

    def scale(self, x_t: Float[Array, "b *g c"], time: Array) -> Float[Array, "b *g c"]:
        """What the network is shown of x_t: itself, or scaled by the path's rule."""
        if not hasattr(self.path, "input_scale"):
            return x_t
        return x_t * self.path.input_scale(expand(time, x_t))

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
                return zero, -1 / jnp.maximum(at.sigma, SMALLEST)
            case "edm":  # Karras et al. (2022), table 1; -v if data has unit variance
                data = sigma_data(self.path)
                norm = jnp.hypot(at.sigma, at.alpha * data)
                return at.sigma / (data * norm), -at.alpha * data / norm
        raise _unknown("target", target)

    def determinant(self, target: Target, at: Coefficients) -> Array:
        """`alpha b - sigma a`, kept away from 0: given x_t, an error in the target is
        `|determinant| / sigma` times the error it makes in x_0."""
        a, b = self.row(target, at)
        det = at.alpha * b - at.sigma * a
        return jnp.where(det < 0, -1.0, 1.0) * jnp.maximum(jnp.abs(det), SMALLEST)

    def solve(
        self,
        value: Float[Array, "b *g c"],
        x_t: Float[Array, "b *g c"],
        time: Array,
        *,
        source: Target,
    ) -> Prediction:
        """x_0 and noise from x_t and the value of any target: the 2x2 solve."""
        at = self.path(expand(time, x_t))
        a, b = self.row(source, at)
        det = self.determinant(source, at)
        value, x_t = value.astype(jnp.float32), x_t.astype(jnp.float32)
        x_0 = (b * x_t - at.sigma * value) / det
        return Prediction(x_0, (at.alpha * value - a * x_t) / det)

    def predict(
        self, output: Float[Array, "b *g e"], x_t: Float[Array, "b *g c"], time: Array
    ) -> Prediction:
        """x_0 and noise from the network's output, which may carry a variance."""
        channels = x_t.shape[-1]
        variance = output[..., channels:] if output.shape[-1] > channels else None
        solved = self.solve(output[..., :channels], x_t, time, source=self.target)
        return solved._replace(variance=variance)

    def express(
        self, prediction: Prediction, time: Array, *, to: Target
    ) -> Float[Array, "b *g c"]:
        """A prediction in the terms of any target."""
        a, b = self.row(to, self.path(expand(time, prediction.x_0)))
        return a * prediction.x_0 + b * prediction.noise

    def convert(
        self,
        value: Float[Array, "b *g c"],
        x_t: Float[Array, "b *g c"],
        time: Array,
        *,
        source: Target,
        to: Target,
    ) -> Float[Array, "b *g c"]:
        """The value of one target from that of another, given x_t.

        time: a scalar or one number per example. Raises ValueError for a target that
        is not in the table.
        """
        _check("source", source)
        _check("to", to)
        return self.express(self.solve(value, x_t, time, source=source), time, to=to)


def _unknown(name: str, target: str) -> ValueError:
    return ValueError(
        f"{name} is {target!r}, but it must be one of {', '.join(map(repr, TARGETS))}"
    )


def _check(name: str, target: str) -> None:
    if target not in TARGETS:
        raise _unknown(name, target)
