# SPDX-License-Identifier: Apache-2.0
"""Where text and image tokens stand, and how fast each position turns them.

A geometry makes the rotary table of a joint sequence: `geometry(text, coordinates)`,
cosines and sines for `text` tokens and then for image tokens at `coordinates` (`n a`,
rows of a grid). Models with fewer coordinates than the geometry has axes stand at zero
on its first axes.
"""

from dataclasses import dataclass
from math import floor, log, pi, prod
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from jdit.tokens.positions import rotary_table
from jdit.typing import Array, Float

Table = tuple[Float[Array, "s k"], Float[Array, "s k"]]


@runtime_checkable
class Geometry(Protocol):
    """The rotary table of text and image tokens; axes: channels each axis turns."""

    @property
    def axes(self) -> tuple[int, ...]: ...

    def __call__(self, text: int, coordinates: Float[np.ndarray, "n a"]) -> Table: ...


def check_axes(geometry: Geometry, width: int) -> None:
    """Raise ValueError unless a geometry turns heads of this width."""
    if sum(geometry.axes) != width or any(dim % 2 for dim in geometry.axes):
        raise ValueError(
            f"geometry.axes is {geometry.axes}, but it must hold even numbers that add "
            f"up to the width of a head, {width}"
        )


def on_axes(
    coordinates: Float[np.ndarray, "n a"], axes: tuple[int, ...]
) -> Float[np.ndarray, "n b"]:
    """Coordinates with zeros for the axes that come before theirs.

    Raises ValueError when there are more coordinates than axes.
    """
    lacking = len(axes) - coordinates.shape[-1]
    if lacking < 0:
        raise ValueError(
            f"axes is {axes}, but the tokens have {coordinates.shape[-1]} coordinates: "
            "it must hold a number of channels for each"
        )
    return np.pad(np.asarray(coordinates, np.float64), ((0, 0), (lacking, 0)))


@dataclass(frozen=True)
class Axes:
    """Image tokens at their rows and columns, text at the origin, as in Flux.

    axes: channels of a head that each axis turns, an even number each, e.g. time, rows
    and columns. theta: the slowest frequency is about 1 / theta.
    """

    axes: tuple[int, ...] = (16, 56, 56)
    theta: float = 10000.0

    def __call__(self, text: int, coordinates: Float[np.ndarray, "n a"]) -> Table:
        image = on_axes(coordinates, self.axes)
        points = np.concatenate([np.zeros((text, len(self.axes))), image])
        return rotary_table(points, self.axes, self.theta)


@dataclass(frozen=True)
class Diagonal:
    """Image tokens around the origin, text on the diagonal behind them: Qwen-Image.

    An axis of n rows runs from -ceil(n / 2) to floor(n / 2) - 1. Text token i stands at
    `i + max(floor(h / 2), floor(w / 2))` on all axes, so it is in no row or column of
    the image, and an image grows in all directions.
    Source: Qwen-Image (Wu et al., 2025), MSRoPE; diffusers 0.42, `QwenEmbedRope`.
    """

    axes: tuple[int, ...] = (16, 56, 56)
    theta: float = 10000.0

    def __call__(self, text: int, coordinates: Float[np.ndarray, "n a"]) -> Table:
        size = coordinates.max(0) + 1
        image = on_axes(coordinates - np.ceil(size / 2), self.axes)
        row = np.arange(text) + floor(size.max() / 2)
        points = np.concatenate([np.repeat(row[:, None], len(self.axes), 1), image])
        return rotary_table(points, self.axes, self.theta)


@dataclass(frozen=True)
class ResonanceYaRN:
    """`Axes` beyond the trained size: Resonance 2-d RoPE with YaRN, as in UltraFlux.

    An axis no longer than its trained length L is turned as ever. On a longer one,
    s = length / L > 1 and, for each pair of channels,

    - resonance: a frequency that turns at least once over L is moved to the nearest
      that turns a whole number of times, so that L is a period of it;
    - YaRN by parts: slow frequencies are divided by s, fast ones kept, and those
      between take NTK's, of the base `theta s^(d / (d - 2))`, over two linear ramps,
      which begin and end at so many turns over L: 0.75 to 1.25, and 2 to 16;
    - the axis's queries and keys are scaled by `1 + 0.1 log s`, the text's too.

    trained: the length L of each axis in tokens; 0 for an axis that is left as it is.
        The code's 64 are 2,048 pixels in tokens of 32.
    Source: W2GenAI-Lab/UltraFlux 8dec21b, transformer_flux.py, `FluxPosEmbed`, whose
        resonance was mended in December 2025.
    """

    axes: tuple[int, ...] = (16, 56, 56)
    trained: tuple[int, ...] = (0, 64, 64)
    theta: float = 10000.0
    resonance: bool = True

    def __post_init__(self) -> None:
        if len(self.trained) != len(self.axes) or min(self.trained) < 0:
            raise ValueError(
                f"trained is {self.trained}, but it must hold a length, or 0, for each "
                f"of axes {self.axes}"
            )

    def __call__(self, text: int, coordinates: Float[np.ndarray, "n a"]) -> Table:
        image = on_axes(coordinates, self.axes)
        points = np.concatenate([np.zeros((text, len(self.axes))), image])
        tables = []
        for axis, (dim, trained) in enumerate(
            zip(self.axes, self.trained, strict=True)
        ):
            place = points[:, axis, None]
            scale = (np.ptp(place) + 1) / trained if trained else 1.0
            size, rates = 1.0, self.theta ** -(np.arange(0, dim, 2) / dim)
            if scale > 1:
                size, rates = (
                    1 + 0.1 * log(scale),
                    self.frequencies(dim, trained, scale),
                )
            tables.append((np.cos(place * rates) * size, np.sin(place * rates) * size))
        cos, sin = (np.concatenate(part, -1) for part in zip(*tables, strict=True))
        return jnp.asarray(cos, jnp.float32), jnp.asarray(sin, jnp.float32)

    def frequencies(
        self, dim: int, trained: int, scale: float
    ) -> Float[np.ndarray, " k"]:
        """The `dim / 2` frequencies of an axis that is `scale` times its length."""
        share = np.arange(0, dim, 2) / dim
        if self.resonance:
            turns = trained * self.theta**-share / (2 * pi)
            whole = np.maximum(np.round(turns), 1) * 2 * pi / trained
            share = np.where(turns >= 1, -np.log(whole) / log(self.theta), share)
        base = self.theta**-share
        ntk = (self.theta * scale ** (dim / (dim - 2))) ** -share
        keep = self._ramp(dim, trained, 1.25, 0.75)
        middle = base / scale * (1 - keep) + ntk * keep
        keep = self._ramp(dim, trained, 16, 2)
        return middle * (1 - keep) + base * keep

    def _ramp(
        self, dim: int, trained: int, fast: float, slow: float
    ) -> Float[np.ndarray, " k"]:
        """1 for pairs that turn more often than `fast` over L, 0 below `slow`."""
        low, high = (
            dim * log(trained / (turns * 2 * pi)) / (2 * log(self.theta))
            for turns in (fast, slow)
        )
        low, high = max(np.floor(low), 0), min(np.ceil(high), dim - 1, dim // 2)
        high = high + 0.001 if low == high else high
        return 1 - np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)


@dataclass(frozen=True)
class Centred:
    """`Axes` with the image's centre in one place at every size: Seedream 2.0.

    The paper says that its Scaling RoPE has scale factors by the image's resolution,
    such that the patches in the centre of an image share similar positions across
    resolutions; it gives no formula, and names no code. Derived here: about the centre
    of the trained grid, with the scale that gives every image the trained area,

        position = (trained - 1) / 2 + scale (index - (size - 1) / 2),
        scale = sqrt(trained rows x columns / rows x columns),

    on both axes, so that shapes are kept and the trained grid is `Axes`. Text is not
    turned, which is to stand at the origin: the paper turns image tokens only, and adds
    learned positions to text. trained: rows and columns.
    Source: Seedream 2.0 (Gong et al., 2025), section 3.1 and figure 10.
    """

    axes: tuple[int, ...] = (32, 32)
    trained: tuple[int, ...] = (64, 64)
    theta: float = 10000.0

    def __call__(self, text: int, coordinates: Float[np.ndarray, "n a"]) -> Table:
        if coordinates.shape[-1] != len(self.trained):
            raise ValueError(
                f"trained is {self.trained}, but the tokens have "
                f"{coordinates.shape[-1]} coordinates: it must hold a length for each"
            )
        size, trained = coordinates.max(0) + 1.0, np.array(self.trained, np.float64)
        scale = (prod(self.trained) / size.prod()) ** (1 / len(size))
        middle = (trained - 1) / 2
        placed = middle + scale * (coordinates - (size - 1) / 2)
        return Axes(self.axes, self.theta)(text, placed)
