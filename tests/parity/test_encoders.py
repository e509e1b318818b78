# SPDX-License-Identifier: Apache-2.0
"""Encoders against transformers on shared random weights, layer by layer.

Every folder is written by transformers at a tiny random configuration that turns on
what is published, and read by jdit, so that names, configs and functions are tested at
once. Hidden states are compared in order: a difference is reported where it begins.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from encoders.tiny_vocabulary import clip_folder  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from jdit import encoders  # noqa: E402
from jdit.encoders import load_encoder, save_encoder  # noqa: E402
from jdit.encoders.layers import gelu  # noqa: E402
from jdit.encoders.resample import bicubic  # noqa: E402
from jdit.encoders.t5 import T5Encoder  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the largest value, where that is above one

T5 = dict(d_model=32, d_kv=12, d_ff=48, num_layers=3, num_heads=4, vocab_size=64)
CLIP = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=20,
    bos_token_id=62,
    eos_token_id=63,
)
BERT = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=20,
)
LM = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
LLAMA_3 = dict(
    rope_type="llama3",
    rope_theta=50.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
GEMMA = LM | dict(
    head_dim=12,
    query_pre_attn_scalar=24,
    sliding_window=4,
    attn_logit_softcapping=2.0,
)
IMAGE = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=20,
    patch_size=4,
)
TOWER = IMAGE | dict(intermediate_size=48)

TEXTS = {
    "t5 v1.1": ("T5EncoderModel", T5 | dict(feed_forward_proj="gated-gelu")),
    "t5, relu, few buckets": (
        "T5EncoderModel",
        T5 | dict(relative_attention_num_buckets=8, relative_attention_max_distance=12),
    ),
    "whole t5": (
        "T5ForConditionalGeneration",
        T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "mt5": ("MT5EncoderModel", T5),
    "umt5": ("UMT5EncoderModel", T5),
    "clip": ("CLIPTextModel", CLIP),
    "clip, old eos": ("CLIPTextModel", CLIP | dict(eos_token_id=2)),
    "clip, projected": (
        "CLIPTextModelWithProjection",
        CLIP | dict(hidden_act="gelu", projection_dim=24),
    ),
    "bert": ("BertModel", BERT),
    "bert, language head": ("BertForMaskedLM", BERT),
    "gemma": ("GemmaForCausalLM", LM | dict(head_dim=12, num_key_value_heads=1)),
    "gemma 2": ("Gemma2Model", GEMMA),
    "gemma 2, language head": ("Gemma2ForCausalLM", GEMMA),
    "llama 2": ("LlamaForCausalLM", LM | dict(num_key_value_heads=4)),
    "llama 3.1": ("LlamaModel", LM | dict(rope_parameters=LLAMA_3, rms_norm_eps=1e-5)),
    "llama, biases": (
        "LlamaModel",
        LM | dict(head_dim=12, attention_bias=True, mlp_bias=True),
    ),
    "qwen 2": ("Qwen2ForCausalLM", LM | dict(rope_theta=1e6)),
    "qwen 2, windows": (
        "Qwen2Model",
        LM | dict(use_sliding_window=True, sliding_window=3, max_window_layers=2),
    ),
}
VISIONS = {
    "clip": ("CLIPVisionModel", TOWER),
    "clip, projected": (
        "CLIPVisionModelWithProjection",
        TOWER | dict(hidden_act="gelu", projection_dim=24),
    ),
    "siglip": ("SiglipVisionModel", TOWER),
    "siglip, no head, margin": (
        "SiglipVisionModel",
        TOWER | dict(vision_use_head=False, image_size=22),
    ),
    "dinov2": ("Dinov2Model", IMAGE),
    "dinov2, no mask token, no bias": (
        "Dinov2Model",
        IMAGE | dict(use_mask_token=False, qkv_bias=False),
    ),
    "dinov2, gated": ("Dinov2Model", IMAGE | dict(use_swiglu_ffn=True)),
    "dinov2, registers": (
        "Dinov2WithRegistersModel",
        IMAGE | dict(num_register_tokens=3, use_swiglu_ffn=True),
    ),
    "dinov2, classifier": ("Dinov2ForImageClassification", IMAGE),
}


def randomise(net, std=0.2):
    """Weights that are not what they start as, norms and biases included."""
    torch.manual_seed(0)
    for name, weight in net.named_parameters():
        torch.nn.init.normal_(weight, std=std)
        if "norm" in name.lower() and name.endswith("weight"):
            weight.data += 1
    return net.eval()


def made(folder, name, config, **save):
    kind = getattr(transformers, name)
    std = 0.1 if "T5" in name else 0.2  # T5 does not scale its logits
    net = randomise(kind._from_config(kind.config_class(**config)), std)
    if hasattr(net, "set_attn_implementation"):
        net.set_attn_implementation("eager")
    net.save_pretrained(folder, **save)
    return net


def sentences(batch, tokens, eos=63, seed=0):
    """Random ids padded on the right with zeros, the end marked, and their mask."""
    random = np.random.default_rng(seed)
    ids = random.integers(3, 60, (batch, tokens))
    length = random.integers(2, tokens + 1, batch)
    length[0] = tokens
    mask = np.arange(tokens) < length[:, None]
    ids[np.arange(batch), length - 1] = eos
    return np.where(mask, ids, 0), mask


def close(name, ours, theirs, mask=None):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, name
    off = np.abs(ours - theirs)
    off = (off if mask is None else off[mask]).max()
    room = TOLERANCE * max(1, np.abs(theirs).max())
    assert off < room, f"{name} is {off:.2g} from the reference's"


def both(encoder):
    """Hidden states and encoding, compiled together."""
    return jax.jit(lambda *x: (encoder.hidden_states(*x), encoder.apply(*x)))


def encoder_of(net):
    """The part of a model with a head or a decoder that we have."""
    if hasattr(net, "get_encoder") and "decoder" in dict(net.named_children()):
        return net.get_encoder()
    return (
        getattr(net, net.base_model_prefix, net) if "For" in type(net).__name__ else net
    )


def states_of(net, ids, mask):
    with torch.no_grad():
        return encoder_of(net)(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask.astype(int)),
            output_hidden_states=True,
        )


@pytest.mark.parametrize("case", TEXTS, ids=str)
def test_text_encoders(tmp_path, case):
    name, config = TEXTS[case]
    net = made(tmp_path, name, config)
    encoder, params = load_encoder(tmp_path)
    run = both(encoder)
    for batch, tokens in ((1, 5), (3, 19)):
        ids, mask = sentences(batch, tokens)
        want = states_of(net, ids, mask)
        ours, encoding = run(params, ids, mask)
        assert len(ours) == len(want.hidden_states)
        for i, state in enumerate(want.hidden_states):
            close(f"hidden state {i}", ours[i], state, mask)
        if hasattr(want, "text_embeds"):
            close("pooled", encoding.pooled, want.text_embeds)
        elif name.startswith("CLIP"):
            close("pooled", encoding.pooled, want.pooler_output)
        close("tokens", encoding.tokens, want.last_hidden_state, mask)


@pytest.mark.parametrize("skip, normed", [(1, False), (1, True), (2, True), (3, False)])
def test_clip_skip(tmp_path, skip, normed):
    net = made(tmp_path, "CLIPTextModel", CLIP)
    encoder, params = load_encoder(tmp_path, skip=skip, normed=normed)
    ids, mask = sentences(2, 9)
    want = states_of(net, ids, np.ones_like(mask))
    state = want.hidden_states[-1 - skip]
    with torch.no_grad():
        state = net.final_layer_norm(state) if normed else state
    encoding = jax.jit(encoder.apply)(params, ids)
    close("tokens", encoding.tokens, state)
    close("pooled", encoding.pooled, want.pooler_output)


@pytest.mark.parametrize("layer", [0, 2, -2, 4, -1])
def test_layers_of_a_language_model(tmp_path, layer):
    net = made(tmp_path, "Gemma2Model", GEMMA)
    encoder, params = load_encoder(tmp_path, layer=layer)
    ids, mask = sentences(2, 9)
    state = states_of(net, ids, mask).hidden_states[layer]
    close("tokens", jax.jit(encoder.apply)(params, ids, mask).tokens, state, mask)


@pytest.mark.parametrize("old", [False, True], ids=["nested", "flat"])
def test_the_language_model_of_a_qwen_that_sees(tmp_path, old):
    """Its three axes of positions are one where there is text alone."""
    kind = transformers.Qwen2_5_VLForConditionalGeneration
    rope = dict(mrope_section=[1, 1, 2], rope_type="default", rope_theta=1e4)
    net = randomise(
        kind(
            transformers.Qwen2_5_VLConfig(
                text_config=LM | dict(rope_parameters=rope),
                vision_config=dict(depth=1, hidden_size=8, intermediate_size=8,
                                   num_heads=2, out_hidden_size=32),
            )
        )
    )  # fmt: skip
    net.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= dict(image_token_id=None, vision_token_id=151654)
    path.write_text(json.dumps(config))
    if old:  # as the first published folders are
        flat = config.pop("text_config")
        section = flat.pop("rope_parameters")["mrope_section"]
        flat |= dict(
            rope_theta=1e4, rope_scaling=dict(mrope_section=section, type="mrope")
        )
        path.write_text(json.dumps({**flat, **config}))
    encoder, params = load_encoder(tmp_path)
    ids, mask = sentences(2, 9)
    want = states_of(net, ids, mask).hidden_states[-1]
    close("tokens", jax.jit(encoder.apply)(params, ids, mask).tokens, want, mask)


@pytest.mark.parametrize("pooling", ["mean", "class", "pooler"])
def test_pooling_of_bert(tmp_path, pooling):
    net = made(tmp_path, "BertModel", BERT)
    encoder, params = load_encoder(tmp_path, pooling=pooling)
    ids, mask = sentences(3, 9)
    want, real = states_of(net, ids, mask), torch.from_numpy(mask)[..., None].float()
    tokens = want.last_hidden_state
    pooled = {
        "mean": (tokens * real).sum(1) / real.sum(1).clamp(min=1e-9),
        "class": tokens[:, 0],
        "pooler": want.pooler_output,
    }[pooling]
    pooled = torch.nn.functional.normalize(pooled, p=2, dim=1)
    close("pooled", jax.jit(encoder.apply)(params, ids, mask).pooled, pooled)


def images_of(encoder, height, width, seed=0):
    """Images in [-1, 1], and as the reference wants them."""
    random = np.random.default_rng(seed)
    images = random.uniform(-1, 1, (2, height, width, encoder.channels))
    images = images.astype(np.float32)
    theirs = np.array(encoder.normalise(jnp.asarray(images)))
    return images, torch.from_numpy(theirs).permute(0, 3, 1, 2)


@pytest.mark.parametrize("case", VISIONS, ids=str)
def test_image_encoders(tmp_path, case):
    name, config = VISIONS[case]
    net = made(tmp_path, name, config)
    encoder, params = load_encoder(tmp_path)
    run, native = both(encoder), config["image_size"]
    for height, width in ((native, native), (32, 16), (12, 12)):
        images, theirs = images_of(encoder, height, width)
        options = {} if "Dino" in name else dict(interpolate_pos_encoding=True)
        with torch.no_grad():
            want = encoder_of(net)(theirs, output_hidden_states=True, **options)
        ours, encoding = run(params, images)
        for i, state in enumerate(want.hidden_states):
            close(f"{height} x {width}: hidden state {i}", ours[i], state)
        close("tokens", encoding.tokens, want.last_hidden_state)
        if hasattr(want, "image_embeds"):
            close("pooled", encoding.pooled, want.image_embeds)
        elif want.pooler_output is None:
            assert encoding.pooled is None
        else:
            close("pooled", encoding.pooled, want.pooler_output)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_towers_of_a_whole_clip(tmp_path, tower):
    kind = transformers.CLIPModel
    net = randomise(
        kind(
            transformers.CLIPConfig(
                text_config=CLIP, vision_config=TOWER, projection_dim=24
            )
        )
    )
    net.save_pretrained(tmp_path)
    encoder, params = load_encoder(tmp_path, tower=tower)
    with torch.no_grad():
        if tower == "text":
            given, _ = sentences(2, 9)
            want = net.get_text_features(torch.from_numpy(given))
        else:
            given, theirs = images_of(encoder, 20, 20)
            want = net.get_image_features(theirs)
    want = getattr(want, "pooler_output", want)
    close("pooled", jax.jit(encoder.apply)(params, given).pooled, want)


def test_the_tower_of_a_whole_siglip(tmp_path):
    text = dict(vocab_size=64, hidden_size=32, num_attention_heads=4)
    text |= dict(num_hidden_layers=1, intermediate_size=48)
    config = transformers.SiglipConfig(text_config=text, vision_config=TOWER)
    net = randomise(transformers.SiglipModel(config))
    net.save_pretrained(tmp_path)
    encoder, params = load_encoder(tmp_path)
    images, theirs = images_of(encoder, 20, 20)
    with torch.no_grad():
        want = net.get_image_features(theirs)
    want = getattr(want, "pooler_output", want)
    close("pooled", jax.jit(encoder.apply)(params, images).pooled, want)


STORED = {f"text: {k}": v for k, v in TEXTS.items()}
STORED |= {f"image: {k}": v for k, v in VISIONS.items()}


@pytest.mark.parametrize("case", STORED, ids=str)
def test_transformers_reads_what_was_saved(tmp_path, case):
    """Load, save, read by transformers: nothing lacks, nothing is left, same bits."""
    name, config = STORED[case]
    net = encoder_of(made(tmp_path / "a", name, config, max_shard_size="20KB"))
    assert (tmp_path / "a" / "model.safetensors.index.json").is_file()
    encoder, params = load_encoder(tmp_path / "a")
    save_encoder(tmp_path / "b", encoder, params)
    again, same_params = load_encoder(tmp_path / "b")
    assert again == encoder
    assert jax.tree.all(jax.tree.map(np.array_equal, params, same_params))
    kind = json.loads((tmp_path / "b" / "config.json").read_text())["architectures"][0]
    read, notes = getattr(transformers, kind).from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    lacks = notes.pop("missing_keys")
    if "bert, language" not in case:  # which has no pooler, and BertModel always one
        assert not lacks
    assert not any(notes.values()), notes
    state = encoder_of(read).state_dict()
    for key, value in net.state_dict().items():
        stored = state.get(key, state.get(f"encoder.{key}"))
        assert stored is not None and torch.equal(value, stored), key


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["text: t5 v1.1", "text: clip, projected",
    "text: gemma 2", "image: dinov2, registers", "image: siglip"])  # fmt: skip
def test_files_round_trip_bitwise(tmp_path, case, kind):
    name, config = STORED[case]
    net = made(tmp_path / "a", name, config)
    net.to(getattr(torch, kind)).save_pretrained(tmp_path / "a")
    save_encoder(tmp_path / "b", *load_encoder(tmp_path / "a"), dtype=kind)
    ours, theirs = (load_file(tmp_path / f / "model.safetensors") for f in "ba")
    assert all(k in ours or f"vision_model.{k}" in ours for k in theirs)
    for key, value in theirs.items():
        stored = ours[key] if key in ours else ours[f"vision_model.{key}"]
        assert value.dtype == stored.dtype and value.tobytes() == stored.tobytes(), key


def test_buckets_of_every_distance():
    """T5's buckets are cut at rounded logarithms: the same rounding, everywhere."""
    from transformers.models.t5.modeling_t5 import T5Attention

    for buckets, reach in ((32, 128), (8, 12), (64, 256), (16, 100)):
        ours = T5Encoder(buckets=buckets, reach=reach).positions(520)
        place = torch.arange(520)
        theirs = T5Attention._relative_position_bucket(
            place[None] - place[:, None], True, buckets, reach
        )
        assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("source, target", [(5, 8), (8, 5), (37, 16), (3, 3), (16, 5)])
def test_bicubic(source, target, antialias):
    rows = torch.eye(source, dtype=torch.float64).reshape(1, source, source, 1)
    out = torch.nn.functional.interpolate(
        rows.expand(1, source, source, 4),
        size=(target, 4),
        mode="bicubic",
        antialias=antialias,
    )
    matrix = out[0, :, :, 0].T.numpy()
    np.testing.assert_allclose(bicubic(source, target, antialias), matrix, atol=1e-6)


def lm(kind, **fields):
    return getattr(transformers, f"{kind}Model"), fields


V1_1 = dict(feed_forward_proj="gated-gelu")
SIZES = {
    "t5 v1.1 small": (
        encoders.t5("small"),
        "T5EncoderModel",
        V1_1 | dict(d_model=512, d_ff=1024, num_layers=8, num_heads=6),
    ),
    "t5 v1.1 xxl": (
        encoders.t5("xxl"),
        "T5EncoderModel",
        V1_1 | dict(d_model=4096, d_ff=10240, num_layers=24, num_heads=64),
    ),
    "t5 v1.1 xl": (
        encoders.t5("xl"),
        "T5EncoderModel",
        V1_1 | dict(d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    ),
    "t5 small": (encoders.t5_original("small"), "T5EncoderModel", {}),
    "t5 11b": (
        encoders.t5_original("xxl"),
        "T5EncoderModel",
        dict(d_model=1024, d_kv=128, d_ff=65536, num_layers=24, num_heads=128),
    ),
    "mt5 small": (encoders.mt5("small"), "MT5EncoderModel", dict(vocab_size=250112)),
    "byt5 small": (
        encoders.byt5(),
        "T5EncoderModel",
        dict(
            vocab_size=384,
            d_model=1472,
            d_kv=64,
            d_ff=3584,
            num_layers=12,
            num_heads=6,
            feed_forward_proj="gated-gelu",
        ),
    ),
    "umt5 xxl": (
        encoders.umt5("xxl"),
        "UMT5EncoderModel",
        dict(vocab_size=256384, d_model=4096, d_ff=10240, num_layers=24, num_heads=64),
    ),
    "clip l": (
        encoders.clip_text_l(projection=768),
        "CLIPTextModelWithProjection",
        dict(
            hidden_size=768,
            intermediate_size=3072,
            num_attention_heads=12,
            projection_dim=768,
        ),
    ),
    "clip g": (
        encoders.clip_text_g(),
        "CLIPTextModelWithProjection",
        dict(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
        ),
    ),
    "clip h": (
        encoders.clip_text_h(),
        "CLIPTextModel",
        dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
        ),
    ),
    "minilm": (
        encoders.minilm(),
        "BertModel",
        dict(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=12,
        ),
    ),
    "gemma 2b": (
        encoders.gemma_2b(),
        "GemmaModel",
        dict(
            hidden_size=2048,
            intermediate_size=16384,
            num_hidden_layers=18,
            num_attention_heads=8,
            num_key_value_heads=1,
        ),
    ),
    "gemma 2 2b": (encoders.gemma_2_2b(), "Gemma2Model", {}),
    "gemma 2 9b": (
        encoders.gemma_2_9b(),
        "Gemma2Model",
        dict(
            hidden_size=3584,
            intermediate_size=14336,
            num_hidden_layers=42,
            num_attention_heads=16,
            num_key_value_heads=8,
        ),
    ),
    "llama 3 8b": (
        encoders.llama_3_8b(),
        "LlamaModel",
        dict(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
    ),
    "qwen 2.5 0.5b": (
        encoders.qwen2_5_0_5b(),
        "Qwen2Model",
        dict(
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
        ),
    ),
    "qwen 2.5 1.5b": (
        encoders.qwen2_5_1_5b(),
        "Qwen2Model",
        dict(
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
        ),
    ),
    "qwen 2.5 3b": (
        encoders.qwen2_5_3b(),
        "Qwen2Model",
        dict(
            hidden_size=2048,
            intermediate_size=11008,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=2,
        ),
    ),
    "qwen 2.5 7b": (
        encoders.qwen2_5_7b(),
        "Qwen2Model",
        dict(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
        ),
    ),
    "clip vision l": (
        encoders.clip_vision_l(),
        "CLIPVisionModel",
        dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            patch_size=14,
        ),
    ),
    "clip vision h": (
        encoders.clip_vision_h(),
        "CLIPVisionModelWithProjection",
        dict(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=16,
            patch_size=14,
            hidden_act="gelu",
            projection_dim=1024,
        ),
    ),
    "siglip base": (encoders.siglip_base(), "SiglipVisionModel", {}),
    "siglip so400m": (
        encoders.siglip_so400m(),
        "SiglipVisionModel",
        dict(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        ),
    ),
}
for letter, width, depth, heads in (
    ("s", 384, 12, 6), ("b", 768, 12, 12), ("l", 1024, 24, 16), ("g", 1536, 40, 24)
):  # fmt: skip
    sizes = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads)
    sizes |= dict(image_size=518, patch_size=14, use_swiglu_ffn=letter == "g")
    for registers, kind in ((0, "Dinov2Model"), (4, "Dinov2WithRegistersModel")):
        SIZES[f"dinov2 {letter}, {registers} registers"] = (
            encoders.dinov2(letter, registers=registers),
            kind,
            sizes,
        )


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_parameter_counts(case):
    """As many numbers as transformers allocates for the published config."""
    encoder, name, config = SIZES[case]
    kind = getattr(transformers, name)
    with torch.device("meta"):
        net = kind(kind.config_class(**config))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    ours = sum(x.size for x in jax.tree.leaves(shapes))
    assert ours == sum(x.numel() for x in net.parameters())


def test_exact_gelu():
    x = torch.linspace(-6, 6, 200)
    np.testing.assert_allclose(
        gelu(jnp.asarray(x.numpy())), torch.nn.functional.gelu(x), atol=1e-6
    )


SENTENCES = [
    "A cat sat",
    "  the   dog's\n\tmat, red!! 123 ",
    "caf\u00e9 CAFE\u0301 <|endoftext|> mat<|startoftext|>",
    "",
    "wow! \u4f60 cat_sat 'RE dog'S don't",
    "the cat sat the mat the red dog sat the mat",
]


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"], ids=["end", "mark"])
def test_clip_tokenizer(tmp_path, pad):
    clip_folder(tmp_path, pad_token=pad)
    theirs = transformers.CLIPTokenizerFast.from_pretrained(tmp_path)
    want = theirs(
        SENTENCES, padding="max_length", max_length=12, truncation=True
    )  # fmt: skip
    ids, mask = encoders.load_tokenizer(tmp_path)(SENTENCES)
    assert ids.tolist() == want["input_ids"]
    assert mask.astype(int).tolist() == want["attention_mask"]


def test_t5_tokenizer(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    model = tmp_path / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_prefix=str(model),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=0)
    texts = [SENTENCES[i] for i in (0, 1, 3, 4, 5)]
    want = theirs(texts, padding="max_length", max_length=12, truncation=True)
    ids, mask = encoders.load_tokenizer(tmp_path, length=12, pad=0)(texts)
    assert ids.tolist() == want["input_ids"]
    assert mask.astype(int).tolist() == want["attention_mask"]


def test_byt5_tokenizer(tmp_path):
    theirs = transformers.ByT5Tokenizer()
    theirs.save_pretrained(tmp_path)
    texts = [SENTENCES[i] for i in (0, 1, 3, 4, 5)] + [
        "\u4f60\u597d, caf\u00e9 \U0001f600"
    ]
    for length in (12, 40):
        want = theirs(
            texts, padding="max_length", max_length=length, truncation=True
        )  # fmt: skip
        ids, mask = encoders.load_tokenizer(tmp_path, length=length)(texts)
        assert ids.tolist() == want["input_ids"]
        assert mask.astype(int).tolist() == want["attention_mask"]


def test_bert_tokenizer(tmp_path):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat cafe red do ##g ##s , ! \u4f60"
    (tmp_path / "vocab.txt").write_text("\n".join(words.split()) + "\n")
    theirs = transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    want = theirs(SENTENCES, padding="max_length", max_length=9, truncation=True)
    config = dict(tokenizer_class="BertTokenizer", pad_token="[PAD]")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ids, mask = encoders.load_tokenizer(tmp_path, length=9)(SENTENCES)
    assert ids.tolist() == want["input_ids"] and 9 in ids
    assert mask.astype(int).tolist() == want["attention_mask"]


def test_qwen_tokenizer(tmp_path):
    from tokenizers.pre_tokenizers import ByteLevel

    merges = ["c a", "ca t", "\u0120 t", "h e", "\u0120t he", "' s"]
    names = sorted(ByteLevel.alphabet()) + [x.replace(" ", "") for x in merges]
    ids = {name: i for i, name in enumerate(names)}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    entries = {str(len(ids) + i): dict(content=x) for i, x in enumerate(added)}
    config = dict(
        tokenizer_class="Qwen2Tokenizer", pad_token="<|endoftext|>",
        added_tokens_decoder=entries,
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.Qwen2Tokenizer(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"),
        extra_special_tokens=added[1:],
    )  # fmt: skip
    texts = [*SENTENCES, "<|im_start|>user\na cat's <|im_end|>\n"]
    want = theirs(texts, padding="max_length", max_length=40, truncation=True)
    found, mask = encoders.load_tokenizer(tmp_path, length=40)(texts)
    assert found.tolist() == want["input_ids"] and ids["cat"] in found
    assert mask.astype(int).tolist() == want["attention_mask"]
    config["added_tokens_decoder"] = {"7": dict(content="<|im_end|>")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="adds the token '<|im_end|>' as 7"):
        encoders.load_tokenizer(tmp_path, length=40)
