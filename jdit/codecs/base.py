# SPDX-License-Identifier: Apache-2.0
"""What every codec is: pixels to a distribution over latents, and back."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jdit.typing import Array, Float, Key, Params


class Posterior(NamedTuple):
    """An independent Gaussian for every latent value, float32.

    mean: `b *g c`. logvar: the logarithm of its variance, minus infinity where the
    codec is deterministic.
    """

    mean: Float[Array, "b *g c"]
    logvar: Float[Array, "b *g c"]

    @property
    def mode(self) -> Float[Array, "b *g c"]:
        return self.mean

    def sample(self, key: Key) -> Float[Array, "b *g c"]:
        """`mean + exp(logvar / 2) noise` (Kingma and Welling, 2013, section 2.4)."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Array, " b"]:
        """The divergence from a standard Gaussian, in nats (ibid., appendix B)."""
        terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1 - self.logvar
        return 0.5 * terms.sum(tuple(range(1, terms.ndim)))


class Codec(Protocol):
    """Images `b h w c` in [-1, 1] to latents and back, as pure functions.

    factor: pixels along one side of a latent. A codec's latents are those its decoder
    reads; a diffusion model reads them after `normalise`.
    """

    @property
    def channels(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def factor(self) -> int: ...
    def init(self, key: Key) -> Params: ...
    def encode(self, params: Params, x: Float[Array, "b h w c"]) -> Posterior: ...
    def decode(
        self, params: Params, z: Float[Array, "b h w c"]
    ) -> Float[Array, "b y x e"]: ...
    def normalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]: ...
    def denormalise(self, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]: ...


def normalise(codec: Any, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """`scaling_factor (z - shift) / std`, about unit variance; see `denormalise`."""
    shift, scale = _statistics(codec)
    return (z - shift) * scale


def denormalise(codec: Any, z: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """`z std / scaling_factor + shift`: from a diffusion model's latents to a codec's.

    The shift is `shift_factor` or, per channel, `latents_mean`; std is one or, per
    channel, `latents_std`. (diffusers leaves this to its pipelines.)
    """
    shift, scale = _statistics(codec)
    return z / scale + shift


def _statistics(codec: Any) -> tuple[Any, Any]:
    shift, scale = codec.shift_factor or 0.0, codec.scaling_factor
    if codec.latents_mean is not None:
        shift = jnp.asarray(codec.latents_mean, jnp.float32)
        scale = scale / jnp.asarray(codec.latents_std, jnp.float32)
    return shift, scale


def check_statistics(codec: Any) -> None:
    """ValueError for statistics of latents that contradict one another."""
    if not codec.scaling_factor > 0:
        raise ValueError(
            f"scaling_factor is {codec.scaling_factor}, but it must be above 0"
        )
    given = [codec.latents_mean, codec.latents_std]
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError("latents_mean and latents_std must be given together")
    if given[0] is not None and codec.shift_factor:
        raise ValueError("shift_factor and latents_mean both shift the latents")
    for name, value in zip(("latents_mean", "latents_std"), given, strict=True):
        if value is not None and len(value) != codec.latent_channels:
            raise ValueError(
                f"{name} has {len(value)} values, but latent_channels is "
                f"{codec.latent_channels}"
            )
    if given[1] is not None and not min(given[1]) > 0:
        raise ValueError(f"latents_std has {min(given[1])}, but it must be above 0")


def check_image(codec: Codec, x: Any) -> None:
    """ValueError unless x is a batch of images that the codec can encode."""
    if x.ndim != 4 or x.shape[-1] != codec.channels:
        raise ValueError(
            f"x has shape {x.shape}, but images are (b, h, w, {codec.channels})"
        )
    if any(side < codec.factor or side % codec.factor for side in x.shape[1:3]):
        raise ValueError(
            f"x is {x.shape[1]} by {x.shape[2]} pixels, but both must be multiples of "
            f"{codec.factor}"
        )


def check_latents(codec: Codec, z: Any) -> None:
    """ValueError unless z is a batch of latents that the codec can decode."""
    if z.ndim != 4 or z.shape[-1] != codec.latent_channels or 0 in z.shape:
        raise ValueError(
            f"z has shape {z.shape}, but latents are (b, h, w, {codec.latent_channels})"
        )
