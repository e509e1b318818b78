# SPDX-License-Identifier: Apache-2.0
"""Whole pipelines: the same folder, noise and prompt end at diffusers' latents."""

from unittest import mock

import numpy as np
import pytest
from compilations import compilations

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import tiny_pipelines  # noqa: E402
import tiny_videos  # noqa: E402
from PIL import Image  # noqa: E402

import jdit  # noqa: E402
from jdit import cli  # noqa: E402
from jdit.pipelines import to_images  # noqa: E402
from jdit.sample import image_keys  # noqa: E402
from jdit.solvers import normal  # noqa: E402

PROMPT, NEGATIVE = "a small owl with wings", "the red hill"
IMAGES = dict(
    dit=(16, 16), pixart=(16, 24), pixart_sigma=(16, 24), sd3=(16, 24), flux=(16, 24),
    hunyuan_dit=(64, 96), lumina=(64, 96), qwen_image=(32, 48),
)  # fmt: skip
VIDEOS = dict(
    latte=(3, 16, 24), wan=(5, 16, 32), wan_euler=(5, 16, 32),
    wan_experts=(5, 16, 32), cogvideox=(9, 32, 48),
    cogvideox_dpm=(9, 32, 40), ltx_video=(9, 32, 64), hunyuan_video=(5, 16, 32),
)  # fmt: skip
SIZES = IMAGES | VIDEOS


@pytest.fixture(scope="module", params=SIZES)
def family(request, tmp_path_factory):
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    theirs = getattr(tiny_pipelines if name in IMAGES else tiny_videos, name)(folder)
    theirs.set_progress_bar_config(disable=True)
    return name, theirs, jdit.pipeline(folder)


def noise(ours, size):
    model = ours.sized(size)
    rng = np.random.default_rng(0)
    return rng.normal(size=(1, *model.sample_shape)).astype(np.float32)


def reference(name, pipe, x, size, steps, scale):
    """diffusers' latents, channels last, from ours."""
    latents = torch.tensor(np.moveaxis(x, -1, 1))
    told = dict(num_inference_steps=steps, output_type="latent")
    told |= dict(height=size[-2], width=size[-1], guidance_scale=scale)
    told |= dict(negative_prompt=NEGATIVE)
    packed, module, repeats = name in ("flux", "qwen_image"), "scheduling_ddpm", None
    match name:
        case "dit":
            return dit_latents(pipe, latents, steps, scale)
        case "pixart" | "pixart_sigma":
            told |= dict(use_resolution_binning=False, clean_caption=False)
        case "hunyuan_dit":
            told |= dict(use_resolution_binning=False)
        case "lumina":
            told |= dict(clean_caption=False)
        case "latte":
            told |= dict(video_length=size[0], clean_caption=False)
        case "wan" | "wan_euler" | "wan_experts" | "ltx_video":
            told |= dict(num_frames=size[0])
        case "hunyuan_video":
            told |= dict(num_frames=size[0])
            del told["negative_prompt"]
        case "cogvideox" | "cogvideox_dpm":
            told |= dict(num_frames=size[0])
            latents = latents.transpose(1, 2)
            module, repeats = "scheduling_dpm_cogvideox", [1, *[2] * (steps - 2), 1]
        case "flux":
            del told["negative_prompt"]
        case "qwen_image":
            told["true_cfg_scale"] = told.pop("guidance_scale")
    if packed:
        latents = pipe._pack_latents(latents, *latents.shape)
    if name == "ltx_video":
        grid, latents = latents.shape[2:], pipe._pack_latents(latents)
    with drawn(module, x.shape, repeats):
        out = pipe(PROMPT, latents=latents, **told)[0]
    if name == "ltx_video":
        out = pipe._unpack_latents(out, *grid)
    if name.startswith("cogvideox"):
        out = out.transpose(1, 2)
    if packed:
        out = pipe._unpack_latents(out, *size, pipe.vae_scale_factor)
        out = out.reshape(*out.shape[:2], *out.shape[-2:])
    return np.moveaxis(out.numpy(), 1, -1)


def drawn(module, shape, repeats, seed=0):
    """A scheduler of diffusers draws, step by step, what jdit draws for a seed.

    repeats: how often it draws in each step; once if None.
    """
    keys = image_keys(jax.random.key(seed), shape[0])

    def noises():
        for step in range(1000):
            folded = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)  # noqa: B023
            drawn = np.asarray(normal(folded, jnp.zeros(shape)))
            moved = torch.tensor(np.moveaxis(drawn, -1, 1))
            moved = moved.transpose(1, 2) if "cogvideox" in module else moved
            yield from [moved] * (repeats[step] if repeats else 1)

    draws = noises()
    return mock.patch(
        f"diffusers.schedulers.{module}.randn_tensor", lambda *_, **__: next(draws)
    )


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


def test_latents(family):
    name, theirs, ours = family
    size = SIZES[name]
    x = noise(ours, size)
    prompt = "class 3" if name == "dit" else PROMPT
    for steps in (4 if name.startswith("cogvideox") else 3, 8):  # which divides 1000
        want = reference(name, theirs, x, size, steps, 3.0)
        out = ours(
            prompt, negative=NEGATIVE, steps=steps, guidance=3.0, size=size, latents=x,
            output="latent", show=False,
        )  # fmt: skip
        print(
            f"{name}, {steps}: {np.abs(out - want).max():.1e} of {np.abs(want).max()}"
        )
        assert np.abs(want).max() > 0.5
        np.testing.assert_allclose(out, want, atol=1e-3, rtol=1e-5)


def test_images_and_a_second_call_compiles_nothing(family):
    name, theirs, ours = family
    prompt = "class 3" if name == "dit" else PROMPT
    told = dict(steps=2, size=SIZES[name])
    first = ours(prompt, seed=1, **told)
    image = first[0][0] if name in VIDEOS else first[0]
    assert image.size == told["size"][:-3:-1]
    assert name not in VIDEOS or len(first[0]) == told["size"][0]
    told["output"] = "array"
    with compilations() as compiled:
        again = ours(prompt, seed=1, **told)
        other = ours(prompt, seed=2, guidance=2.0, **told)
    assert not compiled
    np.testing.assert_array_equal(first[0], to_images(again)[0])
    assert np.any(again != other)


def test_decoded_latents_are_diffusers_pixels(family):
    name, theirs, ours = family
    if name in VIDEOS or name == "qwen_image":
        pytest.skip("codecs of videos are tested alone, and frames are images")
    x = noise(ours, SIZES[name])
    config = theirs.vae.config
    z = torch.tensor(x).permute(0, 3, 1, 2) / config.scaling_factor
    with torch.no_grad():
        want = theirs.vae.decode(z + (config.shift_factor or 0)).sample
    want = (want.permute(0, 2, 3, 1).numpy() / 2 + 0.5).clip(0, 1)
    out = np.asarray(ours._decode(ours.weights.codec, x))
    np.testing.assert_allclose(out, want, atol=1e-4)


def test_the_command_line_draws_a_video(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("video")
    tiny_videos.latte(folder)
    options = ["--prompt", "an owl", "--steps", "2", "--size", "3", "16", "24"]
    cli.main(["sample", str(folder), *options, "--out", str(tmp_path / "a.webp")])
    with Image.open(tmp_path / "a.webp") as video:
        assert video.n_frames == 3 and video.size == (24, 16)


def test_the_command_line_draws_from_a_folder(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("line")
    tiny_pipelines.pixart(folder)
    options = ["--prompt", "an owl", "a cat", "--steps", "2", "--size", "16", "16"]
    cli.main(["sample", str(folder), *options, "--out", str(tmp_path / "two.npz")])
    drawn = np.load(tmp_path / "two.npz")
    assert drawn["x_0"].shape == (2, 16, 16, 3) and drawn["label"].tolist() == [0, 1]
