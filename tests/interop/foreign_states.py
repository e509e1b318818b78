# SPDX-License-Identifier: Apache-2.0
"""Random weights under the published names, written out independently of the rules."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def grid_positions(side: int, dim: int) -> np.ndarray:
    """DiT's fixed table: sines and cosines of the column, then of the row."""
    omega = 1 / 10000 ** (np.arange(dim // 4) / (dim / 4))
    rows = []
    for row in range(side):
        for column in range(side):
            parts = [f(at * omega) for at in (column, row) for f in (np.sin, np.cos)]
            rows.append(np.concatenate(parts))
    return np.array(rows, np.float32)[None]


def published(
    depth=2, dim=32, patch=2, side=4, channels=4, out=8, rows=11, seed=0
) -> dict[str, np.ndarray]:
    """A state dict as DiT's and SiT's code stores it."""
    shapes = {
        "x_embedder.proj.weight": (dim, channels, patch, patch),
        "x_embedder.proj.bias": (dim,),
        "t_embedder.mlp.0.weight": (dim, 256),
        "t_embedder.mlp.0.bias": (dim,),
        "t_embedder.mlp.2.weight": (dim, dim),
        "t_embedder.mlp.2.bias": (dim,),
        "y_embedder.embedding_table.weight": (rows, dim),
        "final_layer.linear.weight": (patch * patch * out, dim),
        "final_layer.linear.bias": (patch * patch * out,),
        "final_layer.adaLN_modulation.1.weight": (2 * dim, dim),
        "final_layer.adaLN_modulation.1.bias": (2 * dim,),
    }
    for i in range(depth):
        for name, size in {
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "mlp.fc1": (4 * dim, dim),
            "mlp.fc2": (dim, 4 * dim),
            "adaLN_modulation.1": (6 * dim, dim),
        }.items():
            shapes[f"blocks.{i}.{name}.weight"] = size
            shapes[f"blocks.{i}.{name}.bias"] = size[:1]
    return _random(shapes, seed) | {"pos_embed": grid_positions(side, dim)}


CONFIG = {
    "_class_name": "DiTTransformer2DModel",
    "_diffusers_version": "0.42.1",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 8,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 4,
    "num_embeds_ada_norm": 10,
    "num_layers": 2,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 8,
    "upcast_attention": False,
}
"""As diffusers writes it, for the sizes of `diffusers_state`."""


def diffusers_state(seed=0) -> dict[str, np.ndarray]:
    """A state dict of a DiTTransformer2DModel: depth 2, width 32, patch 2."""
    dim, patch, out = 32, 2, 8
    shapes = {
        "pos_embed.proj.weight": (dim, 4, patch, patch),
        "pos_embed.proj.bias": (dim,),
        "proj_out_1.weight": (2 * dim, dim),
        "proj_out_1.bias": (2 * dim,),
        "proj_out_2.weight": (patch * patch * out, dim),
        "proj_out_2.bias": (patch * patch * out,),
    }
    for i in range(2):
        for name, size in {
            "norm1.linear": (6 * dim, dim),
            "attn1.to_q": (dim, dim),
            "attn1.to_k": (dim, dim),
            "attn1.to_v": (dim, dim),
            "attn1.to_out.0": (dim, dim),
            "ff.net.0.proj": (4 * dim, dim),
            "ff.net.2": (dim, 4 * dim),
        }.items():
            shapes[f"transformer_blocks.{i}.{name}.weight"] = size
            shapes[f"transformer_blocks.{i}.{name}.bias"] = size[:1]
    state = _random(shapes, seed)
    embedding = _random(
        {
            "timestep_embedder.linear_1.weight": (dim, 256),
            "timestep_embedder.linear_1.bias": (dim,),
            "timestep_embedder.linear_2.weight": (dim, dim),
            "timestep_embedder.linear_2.bias": (dim,),
            "class_embedder.embedding_table.weight": (11, dim),
        },
        seed + 1,
    )
    for i in range(2):
        for name, value in embedding.items():
            state[f"transformer_blocks.{i}.norm1.emb.{name}"] = value
    return state


def write_diffusers(folder: Path, state=None, **config) -> Path:
    """A folder of a DiTTransformer2DModel; a config field of ... is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        diffusers_state() if state is None else state,
        folder / "diffusion_pytorch_model.safetensors",
        metadata={"format": "pt"},
    )
    fields = {k: v for k, v in (CONFIG | config).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
