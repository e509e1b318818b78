# SPDX-License-Identifier: Apache-2.0
"""The reverse step of a chain: its posterior, its variance, its term of the bound."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jdit.processes.gaussian import Prediction, expand
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


@runtime_checkable
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


def gaussian_kl(
    mean_gap: Float[Array, "..."],
    log_variance: Float[Array, "..."],
    other_log_variance: Float[Array, "..."],
) -> Float[Array, "..."]:
    """KL divergence, in nats, from one Gaussian to another, elementwise.

    mean_gap: the difference of the means; log_variance: of the first (the truth);
    other_log_variance: of the second (the model).
    """
    gap = log_variance - other_log_variance
    scaled = jnp.square(mean_gap) * jnp.exp(-other_log_variance)
    return (jnp.expm1(gap) - gap + scaled) / 2


def pixel_nll(
    x_0: Float[Array, "..."],
    mean: Float[Array, "..."],
    log_scale: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Minus the log probability, in nats, of 8-bit data under a Gaussian, elementwise.

    Data in [-1, 1] lies on 256 levels 2/255 apart; each level has the mass within half
    a step of it, the first and last all that is beyond (Ho et al., 2020, equation 13).
    As in the published code the normal distribution function is approximated by
    `sigmoid(2 sqrt(2/pi) (z + 0.044715 z^3))` and a probability is at least 1e-12.

    mean, log_scale: of the Gaussian; log_scale is the log of its standard deviation.
    """
    centred, inverse = x_0 - mean, jnp.exp(-log_scale)
    upper = _probit(inverse * (centred + 1 / 255))
    lower = _probit(inverse * (centred - 1 / 255))
    # The mass between is computed in the lower tail, where float32 has digits to spare.
    flip = centred > 0
    high, low = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    mass = jax.nn.sigmoid(high) - jax.nn.sigmoid(low)
    smallest = 1e-12
    log = jnp.log(jnp.maximum(mass, smallest))
    floor = float(np.log(smallest))
    log = jnp.where(x_0 > 0.999, jnp.maximum(jax.nn.log_sigmoid(-lower), floor), log)
    log = jnp.where(x_0 < -0.999, jnp.maximum(jax.nn.log_sigmoid(upper), floor), log)
    return -log


def _probit(z: Array) -> Array:
    return float(2 * np.sqrt(2 / np.pi)) * (z + 0.044715 * z**3)


def vlb(
    path: Path,
    x_0: Float[Array, "b *g c"],
    x_t: Float[Array, "b *g c"],
    prediction: Prediction,
    time: Float[Array, " b"],
    next_time: Float[Array, " b"],
    variance: Variance | None = None,
) -> Float[Array, " b"]:
    """One step's term of the variational bound, in bits per value.

    `KL(q(x_s | x_t, x_0) || p(x_s | x_t))`, and in the step to clean data the negative
    log likelihood `pixel_nll` (Ho et al., 2020, equation 5).

    prediction: the model's, from x_t at `time`. variance: `LearnedRange()` if None.
    """
    step = posterior(path, expand(time, x_0), expand(next_time, x_0))
    model_log = (variance or LearnedRange())(step, prediction)
    gap = step.coef_x0 * (x_0 - prediction.x_0)
    kl = gaussian_kl(gap, step.log_variance_small, model_log)
    mean = step.coef_x0 * prediction.x_0 + step.coef_xt * x_t
    nll = pixel_nll(x_0, mean, model_log / 2)
    bits = jnp.where(expand(next_time, x_0) > 0, kl, nll) / float(np.log(2))
    return bits.reshape(len(bits), -1).mean(-1)
