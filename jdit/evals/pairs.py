# SPDX-License-Identifier: Apache-2.0
"""A run beside a reference run, and what is measured of each pair of images."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Float

from jdit.data import to_uint8
from jdit.evals.devices import over_devices
from jdit.evals.drawn import Drawn
from jdit.evals.images import Floats, Stored
from jdit.evals.meter import Measured
from jdit.evals.paired import WINDOW, relative_error, ssim
from jdit.evals.protocol import Protocol, params_hash
from jdit.evals.references import size_of
from jdit.interop.lpips import load_lpips
from jdit.typing import Array, Params


@dataclass(frozen=True)
class Pairs:
    """Image i of a run and image i of its reference, side by side along channels.

    Bytes; or floats, `x_0` as it was drawn, where both files hold such.

    Raises ValueError for runs of unequal numbers or sizes.
    """

    run: Drawn | Stored
    reference: Stored

    def __post_init__(self) -> None:
        run, other = self.run, self.reference
        if run.count != other.count:
            raise ValueError(
                f"the run has {run.count} images, but the paired one has "
                f"{other.count}: both need the same, in the same order"
            )
        if run.shape != other.shape:
            raise ValueError(
                f"the run's images are {size_of(run.shape)}, but the paired one's are "
                f"{size_of(other.shape)}: compare runs of one size"
            )

    @property
    def count(self) -> int:
        return self.run.count

    @property
    def floats(self) -> bool:
        """Whether values are compared as they were drawn, not as bytes."""
        return isinstance(self.run, Floats) and isinstance(self.reference, Floats)

    @property
    def shape(self) -> tuple[int, ...]:
        *grid, channels = self.run.shape
        return (*grid, 2 * channels)

    def stream(self, start: int, batch: int) -> Iterator[np.ndarray]:
        name = "values" if self.floats else "stream"
        both = (getattr(x, name)(start, batch) for x in (self.run, self.reference))
        for pair in zip(*both, strict=True):
            x = np.concatenate(pair, -1)
            yield x if x.ndim > 3 else x[:, None]  # latents in a row


class Difference:
    """Squared error, relative error, SSIM and LPIPS of pairs; of videos, of each frame.

    Of latents the relative error alone. SSIM is of images that its window fits into.

    lpips: a file of weights, see `jdit.interop.lpips.load_lpips`, or None.

    Raises ValueError for weights where pairs are no pictures, or too small ones.
    """

    def __init__(self, pairs: Pairs, lpips: Path | None = None) -> None:
        self.bytes = not pairs.floats
        *grid, channels = pairs.run.shape
        self.pictures = len(grid) in (2, 3) and channels in (1, 3)
        self.videos = self.pictures and len(grid) == 3
        self.names = ["squared", "relative_error"]
        if self.pictures and min(grid[-2:]) >= WINDOW:
            self.names.append("ssim")
        self.apart: Any = None
        self.fields: Protocol = {"features": None, "features_hash": None}
        if lpips is None:
            return
        if not self.pictures:
            raise ValueError(
                f"lpips is given, but what is compared is {pairs.run.shape}, which are "
                "no pictures: leave it out"
            )
        model, params = load_lpips(lpips)
        side = jax.ShapeDtypeStruct((1, *grid[-2:], 3), "float32")
        taps = jax.eval_shape(model.features, params, side)
        if not all(tap.size for tap in taps):
            raise ValueError(
                f"images are {grid[-2]} by {grid[-1]} pixels, too few for LPIPS's "
                "trunk: leave --lpips out"
            )

        def run(params: Params, x: Float[Array, "b h w c"]) -> Array:
            a, b = (x[..., :channels], x[..., channels:])
            if channels == 1:
                a, b = (jax.numpy.repeat(y, 3, -1) for y in (a, b))
            return model.apply(params, a, b)[0]

        self.apart = over_devices(run, params)
        self.names.append("lpips")
        self.fields = {"features": "LPIPS(alex)", "features_hash": params_hash(params)}

    def __call__(self, images: np.ndarray) -> Float[np.ndarray, "b k"]:
        x = np.asarray(images)
        if self.videos:
            x = rearrange(x, "b t ... -> (b t) ...")
        a, b = np.split(x, 2, -1)
        axes = tuple(range(1, a.ndim))
        found = {
            "squared": np.square(a.astype(np.float64) - b).mean(axes),
            "relative_error": relative_error(a, b),
        }
        if "ssim" in self.names:
            if self.bytes:
                found["ssim"] = ssim(to_uint8(a), to_uint8(b))
            else:  # constants of the window are for values from 0 on
                found["ssim"] = ssim(a + 1, b + 1)
        if self.apart is not None:
            found["lpips"] = np.asarray(self.apart(x))
        values = np.stack([found[name] for name in self.names], -1)
        return rearrange(values, "(b t) k -> b (t k)", b=len(images))

    def scores(self, measured: Measured) -> dict[str, float]:
        """Means over pairs; of PSNR over pairs that differ, infinite if none does."""
        assert measured.features is not None
        width = len(self.names)
        rows = measured.features.astype(np.float64).reshape(-1, width)
        means = dict(zip(self.names, rows.mean(0).tolist(), strict=True))
        squared = rows[:, 0]
        del means["squared"]
        if not self.pictures:
            return means
        unlike = squared[squared > 0]
        ratio = 10 * np.log10(4 / unlike).mean() if len(unlike) else float("inf")
        return {"psnr": float(ratio), **means}
