# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 against a PyTorch model with the published state dict's names.

The model below is written from the paper's table and TensorFlow's padding rule, with
batch norms apart; ours has them folded in.
"""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from jdit.evals import EfficientNetLite0  # noqa: E402
from jdit.evals.convert import convert  # noqa: E402

BLOCKS = [  # kernel, stride, expansion, channels in, channels out
    (3, 1, 1, 32, 16),
    *[(3, 2, 6, 16, 24), (3, 1, 6, 24, 24)],
    *[(5, 2, 6, 24, 40), (5, 1, 6, 40, 40)],
    *[(3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)],
    *[(5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)],
    *[(5, 2, 6, 112, 192), *[(5, 1, 6, 192, 192)] * 3],
    (3, 1, 6, 192, 320),
]


class Convolution(torch.nn.Conv2d):
    """Pads as TensorFlow does: what does not divide goes to the right and below."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x):
        pads = []
        for size in reversed(x.shape[2:]):
            step, width = self.stride[0], self.kernel_size[0]
            total = max((-(-size // step) - 1) * step + width - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(torch.nn.functional.pad(x, pads))


class Block(torch.nn.Module):
    def __init__(self, kernel, stride, expansion, inputs, outputs):
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv = Convolution(inputs, wide, 1)
            self._bn0 = torch.nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = Convolution(wide, wide, kernel, stride, groups=wide)
        self._bn1 = torch.nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = Convolution(wide, outputs, 1)
        self._bn2 = torch.nn.BatchNorm2d(outputs, eps=1e-3)
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x):
        relu6 = torch.nn.functional.relu6
        y = relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class Lite0(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self._conv_stem = Convolution(3, 32, 3, 2)
        self._bn0 = torch.nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = torch.nn.ModuleList([Block(*block) for block in BLOCKS])
        self._conv_head = Convolution(320, 1280, 1)
        self._bn1 = torch.nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = torch.nn.Linear(1280, 1000)

    def forward(self, x):
        x = torch.nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = torch.nn.functional.relu6(self._bn1(self._conv_head(x)))
        features = x.mean((2, 3))
        return features, self._fc(features)


def test_features_and_probabilities_are_those_of_pytorch(tmp_path):
    torch.manual_seed(0)
    model = Lite0().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value in (module.running_var, module.weight.data):
                torch.nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.running_mean, module.bias.data):
                torch.nn.init.normal_(value, std=0.1)
    torch.save(model.state_dict(), tmp_path / "lite0.pth")
    path = convert(tmp_path / "lite0.pth", tmp_path / "lite0.safetensors")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 70, 70, 3)).astype(np.float32)
    pixels = torch.from_numpy((images + 1) * 127.5).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected, logits = model((pixels - 127) / 128)
    features = EfficientNetLite0(str(path), resolution=70)
    assert expected.abs().max() > 0.1
    np.testing.assert_allclose(features(images), expected, atol=1e-5)
    np.testing.assert_allclose(
        features.probabilities(images), logits.softmax(-1), atol=1e-5
    )
