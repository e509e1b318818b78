# SPDX-License-Identifier: Apache-2.0
"""FD-DINOv2, CMMD and the CLIP score from bytes, as the published code computes them.

The networks are transformers', small and random; what surrounds them is written out
here from layer6ai-labs/dgm-eval at 74c79f7, facebookresearch/dinov2, google-research's
cmmd and torchmetrics' clip_score.
"""

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from encoders.tiny_vocabulary import clip_folder  # noqa: E402

from jdit.encoders.vision import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from jdit.encoders.vision_models import CLIP_MEAN, CLIP_STD  # noqa: E402
from jdit.evals import CLIP, DINOv2, clip_score, measure  # noqa: E402
from jdit.evals.meter import Meter, read  # noqa: E402

pytestmark = pytest.mark.parity

SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)


def images(seed, count=12, height=50, width=50):
    generator = np.random.default_rng(seed)
    x = generator.uniform(0, 255, (count, 5, 5, 3))
    x = x.repeat(-(-height // 5), 1).repeat(-(-width // 5), 2)[:, :height, :width]
    return (x + generator.normal(0, 20, x.shape)).clip(0, 255).astype(np.uint8)


def randomise(net):
    torch.manual_seed(0)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(0.2 * torch.randn_like(value) + (value.ndim == 1) * 0.5)
    return net.eval()


def normalised(pictures, size, mean, std):
    """Pillow's bicubic on bytes, then numbers: torchvision's usual way."""
    small = [np.asarray(p.resize((size, size), Image.BICUBIC)) for p in pictures]
    x = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    return (x - mean) / std


def measured(net, x):
    meter = Meter()
    for values in read(net, x, 8):
        meter.add(values)
    return meter.measured()


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    config = transformers.Dinov2Config(
        image_size=518, patch_size=14, mlp_ratio=4, **SIZES
    )
    net = randomise(transformers.Dinov2Model(config))
    folder = tmp_path_factory.mktemp("dino")
    net.save_pretrained(folder)
    return net, folder


def published_dino(net, x):
    """facebookresearch's positions, put into a network of their size."""
    table = net.embeddings.position_embeddings.detach()
    first, rest = table[:, :1], table[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    scale = float((224 // 14 + 0.1) / 37.0)
    rest = torch.nn.functional.interpolate(
        rest, scale_factor=(scale, scale), mode="bicubic"
    )
    assert rest.shape[-2:] == (16, 16)
    rows = rest.permute(0, 2, 3, 1).reshape(1, 256, -1)
    config = transformers.Dinov2Config(**net.config.to_dict() | dict(image_size=224))
    small = transformers.Dinov2Model(config).eval()
    state = net.state_dict() | {
        "embeddings.position_embeddings": torch.cat([first, rows], 1)
    }
    small.load_state_dict(state)
    pixels = normalised(map(Image.fromarray, x), 224, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        return small(pixels).last_hidden_state[:, 0].numpy()


def test_fd_dinov2_is_dgm_evals(dino):
    net, folder = dino
    sets = [images(0), images(1, height=60, width=40)]
    want = [published_dino(net, x) for x in sets]
    ours = [measured(DINOv2(str(folder)), x) for x in sets]
    for mine, theirs in zip(ours, want, strict=True):
        assert theirs.std() > 0.1
        np.testing.assert_allclose(mine.features, theirs, atol=1e-5)
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in want]
    (a, left), (b, right) = moments
    root = np.real(scipy.linalg.eigvals(left @ right) ** 0.5).sum()
    distance = ((a - b) ** 2).sum() + np.trace(left + right) - 2 * root
    found = DINOv2().scores(*ours)["fd_dinov2"]
    assert found == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("size", [32, 64, 256, 512])
def test_features_from_every_size_are_the_published_ones(dino, clip, size):
    """Bytes through the resize, up and down, to the features."""
    x = images(size, 2, size, size)
    for part, published, (net, *_, folder) in (
        (DINOv2, published_dino, dino),
        (CLIP, published_clip, clip),
    ):
        mine = np.asarray(part(str(folder))(x))
        np.testing.assert_allclose(mine, published(net, x), atol=1e-4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = clip_folder(tmp_path_factory.mktemp("clip"), model_max_length=77)
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder)
    text = SIZES | dict(intermediate_size=48, vocab_size=len(tokenizer))
    text |= dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    vision = SIZES | dict(intermediate_size=48, image_size=28, patch_size=14)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=24
    )
    net = randomise(transformers.CLIPModel(config))
    net.save_pretrained(folder)
    return net, tokenizer, folder


def unit(x):
    x = getattr(x, "pooler_output", x)
    return (x / x.norm(dim=-1, keepdim=True)).numpy()


def published_clip(net, x):
    """The middle square, then Pillow's bicubic, as CMMD's loader."""
    pictures = []
    for picture in map(Image.fromarray, x):
        w, h = picture.size
        side = min(w, h)
        left, top = (w - side) // 2, (h - side) // 2
        pictures.append(picture.crop((left, top, left + side, top + side)))
    with torch.no_grad():
        pixels = normalised(pictures, 28, CLIP_MEAN, CLIP_STD)
        return unit(net.get_image_features(pixels))


def published_cmmd(x, y):
    """cmmd/distance.py in float64, where it has float32."""
    x, y = (torch.from_numpy(v).double() for v in (x, y))

    def mean(a, b):
        gamma = 1 / (2 * 10**2)
        norms = a.square().sum(1)[:, None] + b.square().sum(1)
        return torch.exp(-gamma * (norms - 2 * a @ b.T)).mean()

    return float(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)))


def test_cmmd_is_the_published_one(clip):
    net, _, folder = clip
    sets = [images(0), images(1, 15, height=60, width=41)]
    want = [published_clip(net, x) for x in sets]
    ours = [measured(CLIP(str(folder)), x) for x in sets]
    for mine, theirs in zip(ours, want, strict=True):
        np.testing.assert_allclose(mine.features, theirs, atol=1e-5)
    found = CLIP().scores(*ours)["cmmd"]
    again = published_cmmd(*(x.features for x in ours))
    assert found == pytest.approx(again, rel=1e-9) and found > 0.01
    assert found == pytest.approx(published_cmmd(*want), rel=1e-3)


def test_the_clip_score_is_torchmetrics(clip):
    """Its texts are padded to the longest, ours to all 77 tokens."""
    net, tokenizer, folder = clip
    x, texts = images(0, 3), ["the red dog", "cat sat mat", "a"]
    given = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        told = unit(net.get_text_features(**given))
    mine = CLIP(str(folder)).texts(texts, batch=2)
    np.testing.assert_allclose(mine, told, atol=1e-5)
    want = 100 * (published_clip(net, x) * told).sum(1).mean()
    found = clip_score(np.asarray(CLIP(str(folder))(x)), mine)
    assert found == pytest.approx(max(want, 0), abs=1e-3)
    assert abs(want) > 0.1


def test_a_stream_is_measured_with_any_net(clip):
    """`measure` needs no Inception."""
    net = CLIP(str(clip[2]))
    whole = measure(images(0), net)
    assert whole.spatial is None and whole.features.shape == (12, 24)
