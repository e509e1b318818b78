# SPDX-License-Identifier: Apache-2.0
"""The reverse step of a chain: its posterior, its variance, its term of the bound."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax.numpy as jnp

from jdit.processes.gaussian import Prediction
from jdit.processes.paths import TINY, Path, transition
from jdit.typing import Array, Float


class Posterior(NamedTuple):
    """`q(x_s | x_t, x_0)`, Gaussian with mean `coef_x0 x_0 + coef_xt x_t`.

    variance: of the posterior; 0 where s is clean data.
    log_variance_small: its logarithm; where it is 0, that of the chain's next step up.
    log_beta_large: logarithm of the variance of x_t given x_s.
    """

    coef_x0: Float[Array, "..."]
    coef_xt: Float[Array, "..."]
    variance: Float[Array, "..."]
    log_variance_small: Float[Array, "..."]
    log_beta_large: Float[Array, "..."]


def posterior(
    path: Path,
    time: Float[Array, "..."],
    next_time: Float[Array, "..."],
    above: Float[Array, "..."] | None = None,
) -> Posterior:
    """The posterior of one reverse step, from `time` to the earlier `next_time`.

    With `beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2`: the coefficients are
    `alpha_s beta / sigma_t^2` of x_0 and `(alpha_t / alpha_s) sigma_s^2 / sigma_t^2` of
    x_t, the variance is `beta sigma_s^2 / sigma_t^2` (Ho et al., 2020, equations 6 and
    7, for any path).

    At `next_time` 0 the variance is 0, and its logarithm is replaced by that of the
    step from `above` to `time`, as in guided-diffusion. `above` is the chain's next
    time up; twice `time` (at most 1) if not given: right for equally spaced chains.

    All arguments broadcast; `time` above 0.
    """
    time, next_time = jnp.asarray(time), jnp.asarray(next_time)
    later, earlier = path(time), path(next_time)
    ratio, beta = transition(path, time, next_time)
    total = jnp.maximum(jnp.square(later.sigma), TINY**2)
    shrink = jnp.square(earlier.sigma) / total
    variance = beta * shrink

    if above is None:
        above = jnp.minimum(2 * time, 1)
    upper = jnp.square(path(above).sigma)
    second = transition(path, above, time).variance * jnp.square(later.sigma)
    second = second / jnp.maximum(upper, TINY**2)
    small = jnp.where(next_time > 0, variance, second)
    return Posterior(
        coef_x0=earlier.alpha * beta / total,
        coef_xt=ratio * shrink,
        variance=variance,
        log_variance_small=jnp.log(jnp.maximum(small, TINY**2)),
        log_beta_large=jnp.log(jnp.maximum(beta, TINY**2)),
    )


class Variance(Protocol):
    """The log variance of a reverse step, broadcast against the data."""

    def __call__(self, posterior: Posterior, prediction: Prediction) -> Array: ...


@dataclass(frozen=True)
class FixedSmall:
    """The posterior's variance: right if the data were a single point."""

    def __call__(self, posterior: Posterior, prediction: Prediction) -> Array:
        return posterior.log_variance_small


@dataclass(frozen=True)
class FixedLarge:
    """beta: right if the data were standard normal (Ho et al., 2020, section 3.2).

    In the step to clean data the posterior's, as in the code of that paper.
    """

    def __call__(self, posterior: Posterior, prediction: Prediction) -> Array:
        return jnp.where(
            posterior.variance > 0,
            posterior.log_beta_large,
            posterior.log_variance_small,
        )


@dataclass(frozen=True)
class LearnedRange:
    """What the network says, between the two (Improved DDPM, equation 15).

    The output v in [-1, 1] is `(v + 1) / 2` of the way from the small to the large log
    variance; it is not clipped. Raises ValueError if the network predicts no variance.
    """

    def __call__(self, posterior: Posterior, prediction: Prediction) -> Array:
        if prediction.variance is None:
            raise ValueError(
                "the prediction has no variance, which LearnedRange needs: give the "
                "model twice the data's channels (out_channels), or use FixedSmall"
            )
        share = (prediction.variance.astype(jnp.float32) + 1) / 2
        small, large = posterior.log_variance_small, posterior.log_beta_large
        return share * large + (1 - share) * small
