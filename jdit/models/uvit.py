# SPDX-License-Identifier: Apache-2.0
"""U-ViT: time and conditions are tokens, and shallow layers reach deep ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.blocks.prenorm import Joined, PreNorm, normal
from jdit.conditioning import Labels, LinearClock, Text, frequencies
from jdit.conditioning.time import Clock
from jdit.conv import Conv, uniform
from jdit.linear import Linear, call
from jdit.models.backbone import Backbone
from jdit.norms import LayerNorm
from jdit.stack import Context, Remat, Stage
from jdit.tokens import Patches
from jdit.typing import Array, Conditions, Float, Key, Params, Stream

SIZES = {
    "S": dict(dim=512, depth=12, heads=8),
    "S-deep": dict(dim=512, depth=16, heads=8),
    "M": dict(dim=768, depth=16, heads=12),
    "L": dict(dim=1024, depth=20, heads=16),
    "H": dict(dim=1152, depth=28, heads=16),
}
"""Width, depth and heads of the published models (the published configurations).

The published count of layers is one more: the middle one is not in `depth`.
"""


@dataclass(frozen=True)
class UViT(Backbone):
    """A vision transformer with long skips (Bao et al., 2023).

    The time's sinusoids, and the label's vector or the projected text, are tokens in
    front of the image's; all get a learned position. Layer i of the last half is
    entered by a linear map of the stream beside the output of layer i from the end of
    the first half. The prediction is made by a linear layer a token, and a last
    convolution over the grid, which the published H models lack.

    grid: size of the data, two axes, square or not. It is a weight: the positions are
        learned, one a token, so that other sizes need other parameters.
    channels: of the data. patch, dim, heads, mlp_ratio: as in the paper.
    depth: an even number of layers, beside the one in the middle.
    conditioning: `Labels`, `Text`, or None. With Text, "text" is `b m e` and every
        token is attended to, padding too, as published; there is no mask.
    text_tokens: m, the number of positions that are learned for text.
    last_conv: whether a 3 x 3 convolution follows the linear read-out.
    clock: the number a time becomes. The published models of latents read the index
        1 ... 1000, `LinearClock(1000)`, and mean `Gaussian(DDPMScaledLinear(),
        "noise")`; those of pixels read 999 times the time of `Gaussian(VPLinear(),
        "noise")`.
    dtype, remat, unroll: see `DiT`.

    Source: baofff/U-ViT ce55170, libs/uvit.py and libs/uvit_t2i.py.
    """

    grid: tuple[int, ...] = (32, 32)
    channels: int = 4
    patch: int = 2
    dim: int = 512
    depth: int = 12
    heads: int = 8
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    conditioning: Labels | Text | None = field(default_factory=lambda: Labels(1000))
    text_tokens: int = 77
    last_conv: bool = True
    clock: Clock = LinearClock()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.depth < 2 or self.depth % 2:
            raise ValueError(
                f"depth is {self.depth}, but it must be even and at least 2: half of "
                "the layers send a skip to the other half"
            )
        if len(self.grid) != 2:
            raise ValueError(f"grid is {self.grid}, but a U-ViT's data has two axes")
        _ = self.tokens  # checks grid and patch

    @property
    def tokens(self) -> Patches:
        return Patches(self.grid, self.patch)

    @property
    def extras(self) -> int:
        """The number of tokens in front of the image's."""
        if isinstance(self.conditioning, Text):
            return 1 + self.text_tokens
        return 1 if self.conditioning is None else 2

    @property
    def stages(self) -> tuple[Stage, ...]:
        parts = (self.dim, self.heads, self.mlp_ratio, self.qkv_bias)
        half = self.depth // 2
        return (
            Stage("in_blocks", PreNorm(*parts), half),
            Stage("mid_blocks", PreNorm(*parts), 1),
            Stage("out_blocks", Joined(*parts), half),
        )

    def init(self, key: Key) -> Params:
        """Parameters, initialised as published."""
        keys = jax.random.split(key, 6)
        features = self.patch**2 * self.channels
        token = jnp.zeros((1, self.dim))
        params = {
            "patch": Linear(self.dim, kernel_init=uniform)
            .init(keys[0], jnp.zeros((1, features)))["params"],
            "positions": normal(keys[1], (self.extras + self.tokens.count, self.dim)),
        }  # fmt: skip
        if isinstance(self.conditioning, Text):
            text = jnp.zeros((1, self.conditioning.features))
            embed = Linear(self.dim, kernel_init=normal).init(keys[2], text)
            params["text"] = embed["params"]
        elif self.conditioning is not None:
            params["label"] = jax.tree.map(
                lambda x: x / 0.02, self.conditioning.init(keys[2], self.dim)
            )  # published with unit variance
        params |= self.init_stages(keys[3])
        final = {"norm": LayerNorm(1e-5).init(keys[4], token)["params"]}
        linear = Linear(features, kernel_init=normal).init(keys[4], token)
        final["linear"] = linear["params"]
        if self.last_conv:
            image = jnp.zeros((1, *self.sample_shape))
            final["conv"] = Conv(self.channels).init(keys[5], image)["params"]
        return params | {"final": final}

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Float[Array, "b n d"], Context]:
        """The tokens of time, condition and image; layers see the time beside."""
        dtype = jnp.dtype(self.dtype)
        x = self.tokens.patchify(x_t.astype(dtype))
        x = call(Linear(self.dim), params["patch"], x)
        value = self.clock(jnp.asarray(time, jnp.float32))
        vector = frequencies(value, self.dim).astype(dtype)
        row = [vector[:, None], x]
        if isinstance(self.conditioning, Text):
            self._check_text(conditions)
            text = conditions["text"].astype(dtype)
            row.insert(1, call(Linear(self.dim), params["text"], text))
        elif self.conditioning is not None:
            label = self.conditioning.apply(params["label"], conditions)
            row.insert(0, label[:, None].astype(dtype))
        x = jnp.concatenate(row, 1) + params["positions"].astype(dtype)
        return x, Context(vector)

    def enter(
        self,
        stage: str,
        params: Params,
        stream: Stream,
        context: Context,
        taps: Mapping[str, Stream],
    ) -> tuple[Stream, Context]:
        """The last half is handed the outputs of the first half, last one first."""
        skips = taps["in_blocks"][::-1] if stage == "out_blocks" else None
        return stream, context.replace(layer=skips)  # type: ignore[attr-defined]

    def read_out(
        self, params: Params, stream: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b *g c"]:
        """Norm and linear layer a token, and a convolution over the whole grid."""
        final = params["final"]
        x = call(LayerNorm(1e-5), final["norm"], stream[:, self.extras :])
        x = call(Linear(self.patch**2 * self.channels), final["linear"], x)
        x = self.tokens.unpatchify(x)
        return call(Conv(self.channels), final["conv"], x) if self.last_conv else x

    def _check_text(self, conditions: Conditions) -> None:
        assert isinstance(self.conditioning, Text)
        self.conditioning.check(conditions)
        count = jnp.shape(conditions["text"])[1]
        if count != self.text_tokens:
            raise ValueError(
                f"conditions['text'] has {count} tokens, but this model has learned "
                f"positions for {self.text_tokens}: pad to that many"
            )


def uvit(size: str = "S", patch: int = 2, **changes: Any) -> UViT:
    """A published size: "S", "S-deep", "M", "L" or "H".

    The defaults are the published models of ImageNet's 4 x 32 x 32 latents, of 1,000
    classes and a null class. MS-COCO's are `uvit("S", conditioning=Text(768))` and
    "S-deep"; CIFAR-10's is `uvit("S", channels=3, conditioning=None,
    clock=LinearClock(999))`, ImageNet's at 64 pixels `uvit("M", 4, grid=(64, 64),
    channels=3, conditioning=Labels(1000, 0.0), clock=LinearClock(999))`.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(SIZES)}")
    published: dict[str, Any] = dict(patch=patch, last_conv=size != "H")
    return UViT(**SIZES[size] | published | changes)
