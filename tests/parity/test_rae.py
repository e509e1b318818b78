# SPDX-License-Identifier: Apache-2.0
"""Representation autoencoders against diffusers, encoder and decoder apart.

Of 16 x 16 latents, as of most published ones: diffusers 0.42 stretches the positions of
any other grid to span 16, where the authors' code counts on, and so do we.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from models.counting import count  # noqa: E402

from jdit.codecs import load_codec, rae, save_codec  # noqa: E402

pytestmark = pytest.mark.parity

KINDS = {
    "dinov2": dict(encoder_patch_size=14, encoder_input_size=224),
    "siglip2": dict(
        encoder_patch_size=16,
        encoder_input_size=256,
        encoder_norm_mean=[0.5] * 3,
        encoder_norm_std=[0.4, 0.5, 0.6],
    ),
    "mae": dict(encoder_patch_size=16, encoder_input_size=256),
}
PARTS = dict(
    encoder_hidden_size=128,
    encoder_num_hidden_layers=2,
    decoder_hidden_size=48,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=4,
    decoder_intermediate_size=56,
    patch_size=2,
    scaling_factor=0.5,
)


@pytest.fixture(scope="module", autouse=True)
def whole_siglip():
    """diffusers 0.42 looks for a part of SigLIP that transformers 5 has not."""
    kind = transformers.SiglipVisionModel
    if not hasattr(kind, "vision_model"):
        kind.vision_model = property(lambda self: self)


def reference(kind, told=True):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    stats = {
        "latents_mean": rng.normal(size=(128, 16, 16)).tolist(),
        "latents_std": rng.uniform(0.5, 2, (128, 16, 16)).tolist(),
    }
    config = dict(encoder_type=kind) | PARTS | KINDS[kind] | (stats if told else {})
    net = diffusers.AutoencoderRAE(**config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net.eval()


def near(ours, want, name, room=1e-5):
    want = want.permute(0, 2, 3, 1).numpy()
    off = float(np.abs(ours - want).max())
    print(f"{name}: {off:.2g} of values to {np.abs(want).max():.2g}")
    assert ours.shape == want.shape and np.std(want) > 1e-2
    assert off < room * max(1, np.abs(want).max()), f"{name} is {off:.2g} off"


@pytest.mark.parametrize("kind", KINDS)
def test_autoencoder_rae(tmp_path, kind):
    net = reference(kind, told=kind != "mae")
    net.save_pretrained(tmp_path / "theirs")
    codec, params = load_codec(tmp_path / "theirs")
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (2, 32, 32, 3)).astype(np.float32)
    given = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        latents = net.encode(given).latent
        images = net.decode(latents).sample
    found = jax.jit(lambda p, x: codec.normalise(codec.encode(p, x).mean))
    near(found(params, 2 * jnp.asarray(x) - 1), latents, "latents", 2e-5)
    z = codec.denormalise(jnp.asarray(latents.permute(0, 2, 3, 1).numpy()))
    near((jax.jit(codec.decode)(params, z) + 1) / 2, images, "images", 2e-5)

    save_codec(tmp_path / "ours", codec, params)
    again, same = load_codec(tmp_path / "ours")
    assert again == codec
    assert jax.tree.all(jax.tree.map(np.array_equal, same, params))
    net.register_to_config(noise_tau=0.5)  # of training
    net.save_pretrained(tmp_path / "theirs")
    assert load_codec(tmp_path / "theirs")[0] == codec


def test_the_published_decoder_has_as_many_parameters():
    sizes = dict(
        decoder_hidden_size=1152,
        decoder_num_hidden_layers=28,
        decoder_num_attention_heads=16,
        decoder_intermediate_size=4096,
    )
    with torch.device("meta"):
        net = diffusers.models.autoencoders.autoencoder_rae.RAEDecoder(
            768, **sizes, num_patches=256
        )
    want = sum(x.numel() for x in net.parameters())
    assert count(rae().decoder) == want
