# SPDX-License-Identifier: Apache-2.0
"""What the folders of all published pipelines have: model, codec, scheduler, texts."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jdit.codecs import load_codec
from jdit.encoders import load_encoder
from jdit.encoders.tokenizer import load_tokenizer
from jdit.interop.schedulers import Scheduler, WholeClock, scheduler_from_diffusers
from jdit.pipelines.compose import Pipeline, Weights
from jdit.pipelines.prompts import Prepared, TextTower
from jdit.typing import Params

Index = dict[str, Any]
Make = Callable[[Path, Index], Pipeline]


def tower(
    folder: Path,
    encoder: str,
    tokenizer: str,
    length: int,
    *,
    prepare: Callable[[str], str] | None = None,
    side: Any = None,
    **chosen: Any,
) -> tuple[TextTower, Params]:
    """A text encoder and its tokeniser, from their places in a pipeline's folder.

    length: that texts are padded to. prepare: what texts go through before.
    side: see `load_tokenizer`. chosen: see `load_encoder`.
    """
    model, params = load_encoder(folder / encoder, **chosen)
    words: Any = load_tokenizer(folder / tokenizer, length=length, side=side)
    if prepare is not None:
        words = Prepared(prepare, words)
    return TextTower(model, words), params


def parts(
    folder: Path,
    load: Callable[..., tuple[Any, Params]],
    *,
    sigmas: bool = False,
    wrap: Callable[[Any], Any] = lambda codec: codec,
) -> dict[str, Any]:
    """The fields of a `Pipeline` but for its prompts.

    load: the family's loader. sigmas: see `scheduler_from_diffusers`.
    wrap: the codec as the model reads it.
    """
    model, params = load(folder)
    found, codec_params = load_codec(folder / "vae")
    codec = wrap(found)

    @cache
    def scheduler(tokens: int) -> Scheduler:
        return scheduler_from_diffusers(folder, tokens=tokens, sigmas=sigmas)

    # What cannot be honoured is said now.
    if scheduler(model.tokens.count).tells_whole_numbers:
        model = replace(model, clock=WholeClock(model.clock))
    return dict(
        model=model,
        codec=codec,
        scheduler=scheduler,
        size=_pixels(codec, model.grid),
        weights=Weights(params, codec_params, {}),
    )


def composed(
    fields: dict[str, Any], prompts: Any, encoders: Params, **more: Any
) -> Pipeline:
    """A pipeline of `parts`, its prompts and the parameters of their encoders."""
    weights = fields["weights"]._replace(encoders=encoders)
    return Pipeline(**fields | dict(prompts=prompts, weights=weights) | more)


def _pixels(codec: Any, grid: tuple[int, ...]) -> tuple[int, ...]:
    if hasattr(codec, "data_grid"):
        return codec.data_grid(grid)
    factor = codec.factor
    factors = factor if isinstance(factor, tuple) else (factor,) * len(grid)
    return tuple(f * side for f, side in zip(factors, grid, strict=True))
