# SPDX-License-Identifier: Apache-2.0
"""Lumina-T2I, of which there is no folder of diffusers: from its parts."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jdit.codecs import load_codec
from jdit.encoders import load_encoder
from jdit.encoders.tokenizer import Words, load_tokenizer
from jdit.guidance import CFG
from jdit.interop.hub import resolve
from jdit.interop.lumina import load_lumina
from jdit.interop.schedulers import Scheduler
from jdit.models import FlagDiT
from jdit.pipelines.compose import Pipeline, Weights
from jdit.pipelines.prompts import OneText, TextTower
from jdit.processes import Gaussian, Linear
from jdit.solvers import Euler, Shifted
from jdit.tokens.stretched import Scaled


@dataclass(frozen=True)
class Ended:
    """Words with an end, which is cut off with what is too long. last: its id."""

    words: Words
    last: int

    def __call__(self, text: str, length: int) -> list[int]:
        return [*self.words(text, length), self.last][:length]


def lumina_t2i(
    weights: str | Path,
    text: str | Path,
    codec: str | Path,
    *,
    length: int = 128,
    end: int = 2,
    **changes: Any,
) -> Pipeline:
    """The pipeline of Lumina-T2I (Gao et al., 2024, "Lumina-T2X").

    weights: a `consolidated_ema.00-of-01` file of the authors', see `load_lumina`.
    text: folder or hub's name of Llama 2 7B with its tokeniser, whose last layer is
        read. codec: of SDXL's autoencoder.
    length: of texts, as in training; the demo does not cut them. end: the id after a
        text, Llama's "</s>", which its own tokeniser leaves out.
    changes: fields of `Pipeline`; others of `load_lumina` are `heads` and `grid`.

    As the authors' demo draws: Euler on times shifted by 4, guidance of three channels
    by 4; at every size attention in proportion to the trained number of tokens, which
    counts two marks a line, and at other areas than the trained one a larger base.

    Raises what `load_lumina`, `load_encoder` and `load_codec` raise.
    Source: Alpha-VLLM/Lumina-T2X 1c60696, lumina_t2i/demo.py and
    configs/infer/settings.yaml.
    """
    own = {name: changes.pop(name) for name in ("heads", "grid") if name in changes}
    model, params = load_lumina(weights, **own)
    if type(model) is not FlagDiT:
        raise ValueError(
            f"weights {str(weights)!r} are of a {type(model).__name__}, but this is "
            "the pipeline of Lumina-T2I's FlagDiT"
        )
    found: Any
    found, codec_params = load_codec(resolve(codec))
    language = resolve(text)
    encoder, encoder_params = load_encoder(language)
    words: Any = load_tokenizer(language, length=length, pad=0, side="right")
    words = replace(words, words=Ended(words.words, end))
    flow = Scheduler(Gaussian(Linear(), "velocity"), Euler(), Shifted(4.0))
    pixels = [side * found.factor for side in model.grid]
    made = Pipeline(
        model,
        found,
        OneText(TextTower(encoder, words)),
        Weights(params, codec_params, {"text": encoder_params}),
        lambda tokens: flow,
        guide=partial(CFG, channels=3),
        fit=_on_grid,
        steps=60,
        guidance=4.0,
        size=(pixels[0], pixels[1]),
    )
    return replace(made, **changes)


def _on_grid(model: FlagDiT, grid: tuple[int, ...]) -> FlagDiT:
    """The model of another size, told the trained one."""
    sized, (rows, columns) = replace(model, grid=grid), model.tokens.shape
    area = sized.tokens.count / model.tokens.count
    base = rows * columns + 2 * rows
    return replace(sized, stretch=Scaled(ntk=area), base_tokens=base)
