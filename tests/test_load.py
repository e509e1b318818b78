# SPDX-License-Identifier: Apache-2.0
"""`jdit.load` and `jdit.save`: published layouts by what lies there."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from album import ALBUM
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file
from tiny_dit import MODEL, awake

import jdit
from jdit.conditioning import Sinusoids
from jdit.interop import hub, save_dit
from jdit.interop.dit import DIT_CLOCK
from jdit.solvers import Euler, Shifted

PLAIN = replace(MODEL, clock=DIT_CLOCK, basis=Sinusoids(256, shift=1.0))
PLAIN = replace(PLAIN, eps=(1e-6, 1e-5), out_channels=2)


def same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.fixture
def folder(tmp_path):
    """A pipeline's folder with a transformer and a scheduler."""
    jdit.save(tmp_path / "transformer", PLAIN, awake(MODEL))
    (tmp_path / "scheduler").mkdir()
    config = dict(_class_name="FlowMatchEulerDiscreteScheduler", shift=3.0)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_folder_gives_model_parameters_and_scheduler(folder):
    found = jdit.load(folder)
    assert found.model == PLAIN
    same(found.params, awake(MODEL))
    assert found.process.target == "velocity" and found.sampling.solver == Euler()
    assert isinstance(found.sampling.grid, Shifted)
    alone = jdit.load(folder / "transformer")
    assert alone.process is None and alone.sampling is None


def test_what_was_loaded_is_saved_bitwise(folder, tmp_path):
    model, params = jdit.load(folder)
    jdit.save(tmp_path / "again", model, params)
    name = "diffusion_pytorch_model.safetensors"
    one, two = (load_file(tmp_path / x / name) for x in ("transformer", "again"))
    assert {k: v.tobytes() for k, v in one.items()} == {
        k: v.tobytes() for k, v in two.items()
    }


def test_weights_come_in_a_dtype_and_a_sharding(folder):
    mesh = Mesh(np.array(jax.devices()), ("model",))
    spec = NamedSharding(mesh, PartitionSpec())
    _, params = jdit.load(folder, dtype="bfloat16", sharding=lambda *_: spec)
    for x in jax.tree.leaves(params):
        assert x.dtype == jnp.bfloat16 and x.sharding == spec


OWN = {  # a member of the album made plain enough, and what its file does not show
    "PixArt": ("pixart", dict(grid=(8, 8), base=4), ("heads",)),
    "MMDiT": ("mmdit", {}, ("heads",)),
    "Flux": ("flux", {}, ("heads", "geometry")),
    "UViT": ("uvit", dict(grid=(8, 8)), ("heads",)),
    "DiCo": ("dico", {}, ()),
    "LightningDiT": ("lightning-dit", dict(grid=(4, 4)), ()),
    "DiTDH": ("ddt-wide-head", dict(grid=(4, 4)), ()),
    "NextDiT": ("next-dit", {}, ("heads", "patch", "grid")),
    "VDT": ("vdt", dict(grid=(3, 4, 4)), ("heads",)),
    "Wan": ("wan", {}, ("heads",)),
    "HunyuanVideo": ("hunyuan-video", {}, ("heads", "geometry")),
    "LTXVideo": ("ltx-video", {}, ("heads", "positions")),
}


@pytest.mark.parametrize("name", OWN)
def test_files_are_told_by_their_tensors(name, tmp_path):
    member, changes, hidden = OWN[name]
    model, path = replace(ALBUM[member].model, **changes), tmp_path / "m.safetensors"
    params = awake(model)
    jdit.save(path, model, params)
    found, loaded = jdit.load(
        path, **{field: getattr(model, field) for field in hidden}
    )
    assert type(found).__name__ == name
    same(loaded, params)


def test_layouts_of_two_families_are_not_guessed(tmp_path):
    path = tmp_path / "dit.safetensors"
    save_dit(path, replace(MODEL, clock=DIT_CLOCK), awake(MODEL))
    with pytest.raises(ValueError, match="may be of DiT or of SiT"):
        jdit.load(path)


def test_unknown_classes_and_models_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="of a UNet2DModel, but accepted is one of"):
        jdit.load(tmp_path)
    with pytest.raises(ValueError, match="model is a int, but"):
        jdit.save(tmp_path, 3, {})


def test_names_of_the_hub_are_downloaded_at_a_revision(monkeypatch, folder):
    asked = {}

    def download(name, **how):
        asked.update(how, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert jdit.load("owner/model", revision="abc123").model == PLAIN
    assert asked["name"] == "owner/model" and asked["revision"] == "abc123"
    wanted = " ".join(asked["allow_patterns"])
    assert "safetensors" in wanted and ".bin" not in wanted and ".pt" not in wanted
    with pytest.raises(FileNotFoundError, match="not the name of a repository"):
        hub.resolve("no such folder")
