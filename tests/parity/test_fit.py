# SPDX-License-Identifier: Apache-2.0
"""FIT against arrays that its published code computed.

The code was google-research/pix2seq eabd4e9 (architectures/transformers.py,
FITDenoiser; utils.py for tokens of sub-images), run in float32 on CPU by TensorFlow
2.21 and Keras 2 with random weights. Every stage and the output are within 2e-5, of
values up to 9: wide latents that are carried on, and wide tokens in windows that are
not square, with a last unit of latents.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from parity.stored import cases, compare, near

from jdit.conditioning import Labels
from jdit.models import FIT

pytestmark = pytest.mark.parity

MODELS = {
    "carried": FIT((8, 8), 2, 2, (2, 2), 2, ((2, 2), (1, 0)), 12, 2, 16, 4, 1.0),
    "wide": FIT((8, 12), 2, 2, (2, 2), 1, ((1, 1), (1, 1)), 20, 4, 16, 2, 2.0, False),
}


class Given:
    """The clock of times that are `1 - alpha^2`."""

    def __call__(self, time):
        return 1000 * (1 - time)


def linear(w, key):
    return {"kernel": w[f"{key}/kernel"], "bias": w[f"{key}/bias"]}


def norm(w, key):
    return {"scale": w[f"{key}/gamma"], "bias": w[f"{key}/beta"]}


def ends(w, key):
    """The four linear layers of Keras' MultiHeadAttention, flat."""
    flat = {
        part: {
            "kernel": rearrange(w[f"{key}/{part}/kernel"], "d h k -> d (h k)"),
            "bias": rearrange(w[f"{key}/{part}/bias"], "h k -> (h k)"),
        }
        for part in ("query", "key", "value")
    }
    out = linear(w, f"{key}/attention_output")
    return flat, {**out, "kernel": rearrange(out["kernel"], "h k d -> (h k) d")}


def joined(*parts):
    return {
        leaf: np.concatenate([part[leaf] for part in parts], -1)
        for leaf in ("kernel", "bias")
    }


def layers(w, key, count):
    found = []
    for i in range(count):
        at = f"{key}/transformer_encoder" + (f"_{i}" if i else "")
        flat, out = ends(w, f"{at}/mha")
        attention = {"norm": norm(w, f"{at}/mha/ln"), "qkv": joined(*flat.values())}
        mlp = {
            "norm": norm(w, f"{at}/mlp/ffn/ln"),
            "in": linear(w, f"{at}/mlp/ffn/dense1"),
            "out": linear(w, f"{at}/mlp/ffn/dense2"),
        }
        found.append({"attention": {**attention, "out": out}, "mlp": mlp})
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def exchange(w, **keys):
    found = {}
    for name, key in keys.items():
        flat, out = ends(w, f"{key}/cross_mha")
        found[name] = {
            "norm": norm(w, f"{key}/cross_mha/ln"),
            "other_norm": norm(w, f"{key}/cross_mha/enc_ln"),
            "q": flat["query"],
            "kv": joined(flat["key"], flat["value"]),
            "out": out,
        }
    return jax.tree.map(lambda x: x[None], found)


def over_name(model, i):
    last = max(j for j, (_, over) in enumerate(model.layers) if over)
    return model.carried if i == last else f"global_{i}_blocks"


def converted(model, w):
    label = linear(w, "cond_proj")
    rows = np.pad(label["kernel"], ((0, 1), (0, 0)))
    params = {
        "patch": {
            "linear": linear(w, "stem"),
            "norm": norm(w, "stem_ln"),
            "positions": w["x_pos_emb/kernel/vis_pos_embedding"],
        },
        "latents": w["latent_pos_emb/kernel/vis_pos_embedding"],
        "time": {
            n: linear(w, f"time_emb/dense{i}") for i, n in enumerate(("in", "out"))
        },
        "label": {"table": rows + label["bias"]},
        "final": {
            "norm": norm(w, "x_output_ln"),
            "linear": linear(w, "x_output_linear"),
        },
    }
    if model.self_conditioning:
        params["previous"] = {
            "norm": norm(w, "latent_prev_proj/ffn/ln"),
            "in": linear(w, "latent_prev_proj/ffn/dense1"),
            "out": linear(w, "latent_prev_proj/ffn/dense2"),
            "last": norm(w, "latent_prev_ln"),
        }
    for i, (local, over) in enumerate(model.layers):
        end = f"_{i}" if i else ""
        params[f"local_{i}_blocks"] = layers(w, f"x_network{end}", local)
        if over:
            params[f"read_{i}_blocks"] = exchange(
                w, exchange=f"l2x_cross_attn{end}", cross=f"l2c_cross_attn{end}"
            )
            params[over_name(model, i)] = layers(w, f"l_network{end}", over)
            if i < len(model.layers) - 1:
                params[f"write_{i}_blocks"] = exchange(
                    w, exchange=f"x2l_cross_attn{end}"
                )
    return params


@pytest.mark.parametrize("name", list(MODELS))
def test_every_stage_is_the_published_one(name):
    case = cases("fit")[name]
    model = MODELS[name]
    model = FIT(**vars(model) | dict(clock=Given(), conditioning=Labels(3)))
    params = converted(model, case["weights"])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    given = {"latents": case["latents"]} if "latents" in case else {}
    run = jax.jit(model.apply)
    for told in ("outputs/output", "null"):
        label = jnp.array([2, 0] if told != "null" else [3, 3])
        out = run(params, case["x"], 1 - case["gamma"], {"label": label, **given})
        near(told, out.prediction, case[told], 2e-5)
        if told != "null":
            last = max(key for key in case if key.startswith("outputs/global"))
            ours = {
                last.split("/")[1]
                if key == model.carried
                else key[: -len("_blocks")]: tap[-1]
                for key, tap in out.taps.items()
            }
            compare(ours | {"output": out.prediction}, case, 2e-5)
