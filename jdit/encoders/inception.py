# SPDX-License-Identifier: Apache-2.0
"""The InceptionV3 of the TensorFlow FID: images to features that scores are made of.

Szegedy et al., 2015 (arXiv 1512.00567, section 6), as the graph of 2015-12-05 has it,
which every published FID reads: mean pooling that does not count the padding, max
pooling in the last block, 1,008 classes, batch norms with an added 0.001.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from jdit.linear import contract
from jdit.typing import Array, Float, Key, Params

SPATIAL = 7
"""Channels of the spatial features: the first of 192 (ADM's choice)."""

_VARIANCE = 1e-3  # what is added to a variance

Pool = Callable[[Array], Array]


def mean_pool(x: Float[Array, "b y x d"]) -> Float[Array, "b y x d"]:
    """The mean of 3 by 3 neighbours that are there."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def max_pool(x: Float[Array, "b y x d"]) -> Float[Array, "b y x d"]:
    """The largest of 3 by 3 neighbours."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def shrink(x: Float[Array, "b y x d"]) -> Float[Array, "b h w d"]:
    """The largest of 3 by 3, every second one."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class Conv(NamedTuple):
    """A convolution without bias, a batch norm and a ReLU. size: `h w`."""

    name: str
    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    def init(self, key: Key, inputs: int) -> Params:
        shape = (*self.size, inputs, self.features)
        ones, zeros = jnp.ones(self.features), jnp.zeros(self.features)
        kernel = nn.initializers.he_normal()(key, shape)
        return dict(kernel=kernel, scale=ones, bias=zeros, mean=zeros, variance=ones)

    def __call__(self, params: Params, x: Array) -> Float[Array, "b y x d"]:
        y = lax.conv_general_dilated(
            x,
            params["kernel"],
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,  # a score must not depend on the device
        )
        scale = params["scale"] / jnp.sqrt(params["variance"] + _VARIANCE)
        return nn.relu((y - params["mean"]) * scale + params["bias"])


class Branch(NamedTuple):
    """A pooling, convolutions one after another, then some side by side."""

    convs: tuple[Conv, ...] = ()
    sides: tuple[Conv, ...] = ()
    pool: Pool | None = None

    def __call__(self, params: Params, x: Array) -> list[Array]:
        x = x if self.pool is None else self.pool(x)
        for conv in self.convs:
            x = conv(params[conv.name], x)
        return [conv(params[conv.name], x) for conv in self.sides] or [x]


class Mixed(NamedTuple):
    """Branches that read the same and are joined along channels."""

    name: str
    branches: tuple[Branch, ...]

    def __call__(self, params: Params, x: Array) -> list[Array]:
        return [y for branch in self.branches for y in branch(params, x)]


def _row(name: str, features: int, length: int = 7) -> Conv:
    return Conv(name, features, (1, length))


def _column(name: str, features: int, length: int = 7) -> Conv:
    return Conv(name, features, (length, 1))


def _square(name: str, features: int, side: int = 3) -> Conv:
    return Conv(name, features, (side, side))


def _half(name: str, features: int) -> Conv:
    return Conv(name, features, (3, 3), 2, "VALID")


def _pooled(features: int, pool: Pool = mean_pool) -> Branch:
    return Branch((Conv("branch_pool", features),), pool=pool)


def _fine(name: str, pooled: int) -> Mixed:
    """Figure 5 of the paper, on 35 by 35."""
    five = (Conv("branch5x5_1", 48), _square("branch5x5_2", 64, 5))
    three = (
        Conv("branch3x3dbl_1", 64),
        _square("branch3x3dbl_2", 96),
        _square("branch3x3dbl_3", 96),
    )
    single = Branch((Conv("branch1x1", 64),))
    return Mixed(name, (single, Branch(five), Branch(three), _pooled(pooled)))


def _middle(name: str, c: int) -> Mixed:
    """Figure 6, on 17 by 17."""
    once = (Conv("branch7x7_1", c), _row("branch7x7_2", c), _column("branch7x7_3", 192))
    twice = (
        Conv("branch7x7dbl_1", c),
        _column("branch7x7dbl_2", c),
        _row("branch7x7dbl_3", c),
        _column("branch7x7dbl_4", c),
        _row("branch7x7dbl_5", 192),
    )
    single = Branch((Conv("branch1x1", 192),))
    return Mixed(name, (single, Branch(once), Branch(twice), _pooled(192)))


def _coarse(name: str, pool: Pool) -> Mixed:
    """Figure 7, on 8 by 8."""
    three = (_row("branch3x3_2a", 384, 3), _column("branch3x3_2b", 384, 3))
    double = (_row("branch3x3dbl_3a", 384, 3), _column("branch3x3dbl_3b", 384, 3))
    entry = (Conv("branch3x3dbl_1", 448), _square("branch3x3dbl_2", 384))
    branches = (
        Branch((Conv("branch1x1", 320),)),
        Branch((Conv("branch3x3_1", 384),), three),
        Branch(entry, double),
        _pooled(192, pool),
    )
    return Mixed(name, branches)


_ENTRY: tuple[tuple[Conv, ...], ...] = (  # convolutions, and how each group is pooled
    (
        _half("Conv2d_1a_3x3", 32),
        Conv("Conv2d_2a_3x3", 32, (3, 3), padding="VALID"),
        _square("Conv2d_2b_3x3", 64),
    ),
    (Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, (3, 3), padding="VALID")),
)
_THREE = (Conv("branch3x3dbl_1", 64), _square("branch3x3dbl_2", 96))
_SEVEN = (Conv("branch7x7x3_1", 192), _row("branch7x7x3_2", 192))
_MIXED = (
    _fine("Mixed_5b", 32),
    _fine("Mixed_5c", 64),
    _fine("Mixed_5d", 64),
    Mixed(
        "Mixed_6a",
        (
            Branch((_half("branch3x3", 384),)),
            Branch((*_THREE, _half("branch3x3dbl_3", 96))),
            Branch(pool=shrink),
        ),
    ),
    _middle("Mixed_6b", 128),
    _middle("Mixed_6c", 160),
    _middle("Mixed_6d", 160),
    _middle("Mixed_6e", 192),
    Mixed(
        "Mixed_7a",
        (
            Branch((Conv("branch3x3_1", 192), _half("branch3x3_2", 320))),
            Branch(
                (*_SEVEN, _column("branch7x7x3_3", 192), _half("branch7x7x3_4", 192))
            ),
            Branch(pool=shrink),
        ),
    ),
    _coarse("Mixed_7b", mean_pool),
    _coarse("Mixed_7c", max_pool),
)
_SPATIAL = "Mixed_6d"  # TensorFlow's mixed_6


class InceptionFeatures(NamedTuple):
    """What scores are made of, float32.

    pool: the mean of the last block over positions: FID, KID, precision and recall.
    spatial: the first 7 channels of `mixed_6/conv` at 17 by 17 positions, row by row,
        channels last: sFID (Nash et al., 2021, section 5; the layer is ADM's).
    logits: without the bias, as ADM's and torch-fidelity's Inception scores read them.
    """

    pool: Float[Array, "b d"]
    spatial: Float[Array, "b s"]
    logits: Float[Array, "b k"]


@dataclass(frozen=True)
class InceptionV3:
    """The network alone: no resizing, no weights (`jdit.interop.inception` reads them).

    classes: 1,008 in the published file, of which 1,000 are ImageNet's.
    """

    classes: int = 1008

    @property
    def features(self) -> int:
        """The width of the pooled features."""
        return 2048

    @staticmethod
    def convolutions() -> Iterator[tuple[str, Conv]]:
        """Every convolution, with the path of its parameters."""
        for group in _ENTRY:
            for conv in group:
                yield conv.name, conv
        for mixed in _MIXED:
            for branch in mixed.branches:
                for conv in (*branch.convs, *branch.sides):
                    yield f"{mixed.name}/{conv.name}", conv

    def init(self, key: Key) -> Params:
        """Random parameters."""
        keys = iter(jax.random.split(key, 100))
        params: Params = {}
        width = 3
        for group in _ENTRY:
            for conv in group:
                params[conv.name] = conv.init(next(keys), width)
                width = conv.features
        for mixed in _MIXED:
            own: Params = {}
            joined = 0
            for branch in mixed.branches:
                inner = width
                for conv in branch.convs:
                    own[conv.name] = conv.init(next(keys), inner)
                    inner = conv.features
                for conv in branch.sides:
                    own[conv.name] = conv.init(next(keys), inner)
                joined += sum(conv.features for conv in branch.sides) or inner
            params[mixed.name], width = own, joined
        kernel = nn.initializers.lecun_normal()(next(keys), (width, self.classes))
        params["logits"] = {"kernel": kernel, "bias": jnp.zeros(self.classes)}
        return params

    def apply(
        self, params: Params, x: Float[Array, "b h w 3"]
    ) -> tuple[InceptionFeatures, dict[str, Array]]:
        """The features, and what each block gives, by name (dropped when unused).

        x: `(pixel - 128) / 128` of bytes at 299 by 299, as the graph scales them. At
        another size, 75 or more, the spatial features have another length.

        Raises ValueError for another number of channels, or fewer than 75 pixels.
        """
        if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < 75:
            raise ValueError(
                f"x has shape {x.shape}, but it must be (batch, height, width, 3) "
                "with at least 75 pixels a side"
            )
        taps: dict[str, Array] = {}
        for i, group in enumerate(_ENTRY):
            for conv in group:
                x = taps[conv.name] = conv(params[conv.name], x)
            x = taps[f"pool_{i}"] = shrink(x)
        spatial = x
        for mixed in _MIXED:
            parts = mixed(params[mixed.name], x)
            if mixed.name == _SPATIAL:
                spatial = rearrange(parts[0][..., :SPATIAL], "b y x c -> b (y x c)")
            x = taps[mixed.name] = jnp.concatenate(parts, -1)
        pool = x.mean((1, 2))
        with jax.default_matmul_precision("highest"):
            logits = contract(pool, params["logits"]["kernel"])
        return InceptionFeatures(pool, spatial, logits), taps
