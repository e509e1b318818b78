# SPDX-License-Identifier: Apache-2.0
"""DiT's and SiT's state dicts: exact both ways, and refused with a sentence."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from foreign_states import published
from safetensors.numpy import load_file, save_file

from jdit.conditioning import Labels, LinearClock, Sinusoids
from jdit.interop import load_dit, load_sit, save_dit, save_sit

BOTH = pytest.mark.parametrize(
    "load, save", [(load_dit, save_dit), (load_sit, save_sit)], ids=["dit", "sit"]
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(published(), path)
    return path


def bits(state):
    return {key: value.tobytes() for key, value in state.items()}


def same(left, right):
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


@BOTH
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [dict(), dict(depth=3, patch=4, side=2, out=4)])
def test_round_trip_is_bitwise(tmp_path, load, save, kind, size):
    state = {k: v.astype(kind) for k, v in published(**size).items()}
    save_file(state, tmp_path / "a.safetensors")
    model, params = load(tmp_path / "a.safetensors", heads=4)
    save(tmp_path / "b.safetensors", model, params, dtype=kind)
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(state)
    again, params_again = load(tmp_path / "b.safetensors", heads=4)
    assert again == model and same(params_again, params)


def test_half_precision_loads_as_float32(tmp_path):
    state = {k: v.astype(np.float16) for k, v in published().items()}
    save_file(state, tmp_path / "a.safetensors")
    _, params = load_dit(tmp_path / "a.safetensors", heads=4)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    table = state["y_embedder.embedding_table.weight"]
    assert np.array_equal(params["label"]["table"], table)


def test_the_model_is_read_off_the_shapes(tmp_path):
    state = published(depth=3, dim=384, patch=4, side=3, channels=3, out=6, rows=8)
    save_file(state, tmp_path / "a.safetensors")
    model, params = load_dit(tmp_path / "a.safetensors")
    assert (model.grid, model.patch, model.channels) == ((12, 12), 4, 3)
    assert (model.out_channels, model.dim, model.depth) == (6, 384, 3)
    assert model.heads == 6 and model.mlp_ratio == 4
    assert model.conditioning == Labels(7) and model.clock == LinearClock(1000, -1)
    made = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


def test_a_table_without_a_null_class(file, tmp_path):
    model, params = load_dit(file, heads=4, classes=11)
    assert model.conditioning == Labels(11, dropout=0)
    save_dit(tmp_path / "b.safetensors", model, params)
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(load_file(file))


def test_patches_are_embedded_as_a_strided_convolution(file):
    state = published()
    model, params = load_dit(file, heads=4)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    windows = x.reshape(2, 4, 2, 4, 2, 4)  # b h p w q c
    want = np.einsum("bhpwqc,dcpq->bhwd", windows, state["x_embedder.proj.weight"])
    want = want.reshape(2, 16, 32) + state["x_embedder.proj.bias"] + state["pos_embed"]
    stream, _ = model.embed(
        params, jnp.asarray(x), jnp.ones(2), {"label": jnp.zeros(2, int)}
    )
    np.testing.assert_allclose(stream, want, atol=1e-5)


def test_the_six_way_matrix_is_split_in_the_published_order(file):
    fused = published()["blocks.1.adaLN_modulation.1.weight"].reshape(6, 32, 32)
    _, params = load_dit(file, heads=4)
    block = jax.tree.map(lambda x: x[1], params["blocks"])
    for branch, (shift, scale, gate) in zip(
        ("attention", "mlp"), (fused[:3], fused[3:]), strict=True
    ):
        kernel = block[branch]["modulation"]["kernel"]
        assert np.array_equal(kernel[:, :32], shift.T)
        assert np.array_equal(kernel[:, 32:], scale.T)
        assert np.array_equal(block[branch]["gate"]["kernel"], gate.T)


@pytest.mark.parametrize("target, sign", [("velocity", -1), ("noise", 1), ("score", 1)])
def test_sit_turns_time_and_the_sign_of_the_velocity_only(file, target, sign):
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 4))
    labels = {"label": jnp.array([0, 5, 10])}
    theirs = jnp.array([0.0, 0.25, 1.0])  # SiT's time: 1 is data
    dit, dit_params = load_dit(file, heads=4)
    raw = replace(dit, clock=LinearClock(1, 0)).apply(dit_params, x, theirs, labels)
    sit, params = load_sit(file, heads=4, target=target)
    ours = sit.apply(params, x, 1 - theirs, labels).prediction
    np.testing.assert_allclose(ours[..., :4], sign * raw.prediction[..., :4], atol=1e-6)
    np.testing.assert_allclose(ours[..., 4:], raw.prediction[..., 4:], atol=1e-6)


def edited(**changes):
    """The published state with keys changed, or left out where None."""
    state = published() | {key.replace("__", "."): v for key, v in changes.items()}
    return {key: value for key, value in state.items() if value is not None}


@BOTH
@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(blocks__1__attn__qkv__bias=None), "lacks 'blocks.1.attn.qkv.bias'"),
        (dict(t_embedder__mlp__0__weight=None), "lacks 't_embedder.mlp.0.weight'"),
        (dict(pos_embed=None), "lacks 'pos_embed'"),
        (dict(blocks__0__lora=np.zeros(2, "f")), "has 'blocks.0.lora', which is no"),
        (dict(blocks__9__lora=np.zeros(2, "f")), "lacks 'blocks.2.attn.qkv.weight'"),
        (
            dict(blocks__1__attn__proj__weight=np.zeros((32, 31), "f")),
            r"shape \(32, 31\), but .* must have \(32, 32\)",
        ),
        (dict(x_embedder__proj__weight=np.zeros((32, 16), "f")), "must have 4 axes"),
        (dict(pos_embed=np.zeros((1, 16, 32), "f")), "'pos_embed'.* differs by 1 "),
        (dict(pos_embed=np.full((1, 16, 32), np.nan, "f")), "differs by nan"),
        (dict(pos_embed=np.zeros((1, 15, 32), "f")), "15 tokens.* square grids"),
        (
            dict(t_embedder__mlp__0__bias=np.zeros(32, int)),
            "holds int64, but weights must be one of float32, bfloat16, float16",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, load, save, changes, sentence):
    save_file(edited(**changes), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path / "a.safetensors", heads=4)


@pytest.mark.parametrize(
    "key, look",
    [
        ("pos_embed.proj.weight", "a diffusers DiTTransformer2DModel"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux transformer"),
        ("params/blocks/attention/qkv/kernel", "jdit's own weights"),
        ("fc.weight", "something else .it holds 'fc.weight'."),
    ],
)
def test_a_foreign_file_is_named(tmp_path, key, look):
    save_file({key: np.zeros(2, "f")}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"looks like {look}.* accepted here is"):
        load_dit(tmp_path / "a.safetensors")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pt is not a file"):
        load_dit(tmp_path / "nothing.pt")
    (tmp_path / "a.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ValueError, match="a.safetensors is not a whole safetensors"):
        load_dit(tmp_path / "a.safetensors")
    save_file(published(), tmp_path / "b.safetensors")
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="b.safetensors is not a whole safetensors"):
        load_dit(tmp_path / "b.safetensors")
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="ends in '.npz', but weights are read from"):
        load_dit(tmp_path / "a.npz")


def test_torch_files_say_that_they_need_torch(file, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(ImportError, match="a.pt is a torch file, and torch is not"):
        load_dit(tmp_path / "a.pt")
    model, params = load_dit(file, heads=4)  # no torch here
    with pytest.raises(ImportError, match="torch is not installed"):
        save_dit(tmp_path / "b.pt", model, params)
    assert not list(tmp_path.glob("b.*"))


def test_arguments_are_checked(file, tmp_path):
    with pytest.raises(ValueError, match="width 32, .* pass heads"):
        load_dit(file)
    with pytest.raises(ValueError, match="classes is 7, .* must be 10 .* or 11"):
        load_dit(file, heads=4, classes=7)
    with pytest.raises(ValueError, match="not a multiple of heads 5"):
        load_dit(file, heads=5)
    with pytest.raises(ValueError, match="target is 'x_0', but SiT's models"):
        load_sit(file, heads=4, target="x_0")
    model, params = load_dit(file, heads=4)
    with pytest.raises(ValueError, match="dtype is 'int8', but it must be"):
        save_dit(tmp_path / "b.safetensors", model, params, dtype="int8")
    with pytest.raises(ValueError, match="ends in '.npz', but weights are written"):
        save_dit(tmp_path / "b.npz", model, params)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(clock=LinearClock(-1.0, 1.0)), r"model.clock is LinearClock\(scale=-1"),
        (dict(qk_norm=True), "model.qk_norm is True, but the published DiT layout"),
        (dict(positions="rotary"), "model.positions is 'rotary'"),
        (dict(basis=Sinusoids(256, shift=1.0)), "model.basis is"),
        (dict(eps=(1e-6, 1e-5)), "model.eps is"),
        (dict(grid=(8, 16)), r"grid \(8, 16\) .* square two-dimensional"),
        (dict(grid=(16,)), "square two-dimensional"),
        (dict(out_channels=5), "out_channels is 5"),
        (dict(conditioning=None), "conditioning is None, but .* needs Labels"),
        (dict(depth=3), r"shape \(2, 32\) at blocks/attention/gate/bias, .* \(3, 32\)"),
    ],
)
def test_a_model_the_layout_cannot_hold(file, tmp_path, change, sentence):
    model, params = load_dit(file, heads=4)
    with pytest.raises(ValueError, match=sentence):
        save_dit(tmp_path / "b.safetensors", replace(model, **change), params)
    assert not (tmp_path / "b.safetensors").exists()


def test_array_like_leaves_are_not_saved(file, tmp_path):
    class Adapter:
        shape = (2, 32, 32)

        def contract(self, x):
            return x

    model, params = load_dit(file, heads=4)
    params["blocks"]["mlp"]["gate"]["kernel"] = Adapter()
    with pytest.raises(ValueError, match="Adapter at blocks/mlp/gate/kernel, but"):
        save_dit(tmp_path / "b.safetensors", model, params)


def test_bfloat16_rounds_to_nearest(file, tmp_path):
    model, params = load_dit(file, heads=4)
    save_dit(tmp_path / "b.safetensors", model, params, dtype="bfloat16")
    for key, value in load_file(tmp_path / "b.safetensors").items():
        want = published()[key].astype(ml_dtypes.bfloat16)
        assert value.tobytes() == want.tobytes(), key
