# SPDX-License-Identifier: Apache-2.0
"""Whole pipelines: the same folder, noise and prompt end at diffusers' latents."""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines  # noqa: E402

import jdit  # noqa: E402
from jdit import cli  # noqa: E402

PROMPT, NEGATIVE = "a small owl with wings", "the red hill"
FAMILIES = ("dit", "pixart", "sd3", "flux", "latte")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    theirs = getattr(tiny_pipelines, request.param)(folder)
    theirs.set_progress_bar_config(disable=True)
    return request.param, theirs, jdit.pipeline(folder)


def noise(ours, size):
    model = ours.sized(size)
    rng = np.random.default_rng(0)
    return rng.normal(size=(1, *model.sample_shape)).astype(np.float32)


def reference(name, pipe, x, size, steps, scale):
    """diffusers' latents, channels last, from ours."""
    latents = torch.tensor(np.moveaxis(x, -1, 1))
    told = dict(num_inference_steps=steps, output_type="latent")
    if name == "dit":
        return dit_latents(pipe, latents, steps, scale)
    if name == "pixart":
        told |= dict(use_resolution_binning=False, clean_caption=False)
    if name == "latte":
        told |= dict(video_length=size[0], clean_caption=False)
        size = size[1:]
    if name == "flux":
        b, c, h, w = latents.shape
        latents = pipe._pack_latents(latents, b, c, h, w)
    else:
        told["negative_prompt"] = NEGATIVE
    out = pipe(
        PROMPT, height=size[0], width=size[1], latents=latents, guidance_scale=scale,
        **told,
    )[0]  # fmt: skip
    if name == "flux":
        out = pipe._unpack_latents(out, *size, pipe.vae_scale_factor)
    return np.moveaxis(out.numpy(), 1, -1)


def dit_latents(pipe, latents, steps, scale):
    """diffusers' DiT pipeline takes no latents: its loop, with its parts."""
    pipe.scheduler.set_timesteps(steps)
    labels = torch.tensor([3, 5])
    for t in pipe.scheduler.timesteps:
        both = torch.cat([latents, latents])
        with torch.no_grad():
            out = pipe.transformer(both, timestep=t.expand(2), class_labels=labels)
        noise = out.sample[:, :4]
        guided = noise[1:] + scale * (noise[:1] - noise[1:])
        latents = pipe.scheduler.step(guided, t, latents).prev_sample
    return latents.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("steps", [3, 8])
def test_latents(family, steps):
    name, theirs, ours = family
    size = (16, 16) if name == "dit" else (16, 24)
    size = (3, *size) if name == "latte" else size
    x = noise(ours, size)
    want = reference(name, theirs, x, size, steps, 3.0)
    prompt = "class 3" if name == "dit" else PROMPT
    out = ours(
        prompt, negative=NEGATIVE, steps=steps, guidance=3.0, size=size, latents=x,
        output="latent", show=False,
    )  # fmt: skip
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(out, want, atol=1e-3)


def test_images_and_a_second_call_compiles_nothing(family):
    name, theirs, ours = family
    prompt = "class 3" if name == "dit" else PROMPT
    first = ours(prompt, seed=1, steps=2, show=True)
    sizes = [f._cache_size() for f in (ours._encode, ours._draw, ours._decode)]
    image = first[0][0] if name == "latte" else first[0]
    assert image.size == ours.size[:-3:-1]
    again = ours(prompt, seed=1, steps=2, show=True)
    other = ours(prompt, seed=2, steps=2, guidance=2.0, show=True)
    assert [f._cache_size() for f in (ours._encode, ours._draw, ours._decode)] == sizes
    np.testing.assert_array_equal(first[0], again[0])
    assert np.any(np.asarray(first[0]) != np.asarray(other[0]))


def test_decoded_latents_are_diffusers_pixels(family):
    name, theirs, ours = family
    if name == "latte":
        pytest.skip("frames are decoded as images are")
    x = noise(ours, (16, 24))
    config = theirs.vae.config
    z = torch.tensor(x).permute(0, 3, 1, 2) / config.scaling_factor
    with torch.no_grad():
        want = theirs.vae.decode(z + (config.shift_factor or 0)).sample
    want = (want.permute(0, 2, 3, 1).numpy() / 2 + 0.5).clip(0, 1)
    out = np.asarray(ours._decode(ours.weights.codec, x))
    np.testing.assert_allclose(out, want, atol=1e-4)


def test_the_command_line_draws_from_a_folder(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("line")
    tiny_pipelines.pixart(folder)
    options = ["--prompt", "an owl", "a cat", "--steps", "2", "--size", "16", "16"]
    cli.main(["sample", str(folder), *options, "--out", str(tmp_path / "two.npz")])
    drawn = np.load(tmp_path / "two.npz")
    assert drawn["x_0"].shape == (2, 16, 16, 3) and drawn["label"].tolist() == [0, 1]
