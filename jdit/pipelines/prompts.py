# SPDX-License-Identifier: Apache-2.0
"""How a family's prompts become its conditions: tokenisers, encoders, their order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from jdit.typing import Conditions, Params

Tokens = dict[str, np.ndarray]
"""What tokenisers give, by name: ids and masks, `b m`."""


class TextTower(NamedTuple):
    """A text encoder and what its prompts go through.

    tokenize: texts to (ids, mask), both `b m`, padded to the encoder's fixed length.
    """

    encoder: Any
    tokenize: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Prepared:
    """A tokeniser of texts that are rewritten first."""

    prepare: Callable[[str], str]
    tokenize: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self.tokenize([self.prepare(text) for text in texts])


def lowered(text: str) -> str:
    """Small letters, without white space around them (PixArt, Latte, Lumina)."""
    return text.lower().strip()


def cleaned(text: str) -> str:
    """HTML's entities as characters, and single spaces (Wan)."""
    return " ".join(unescape(unescape(text)).split())


class Prompts(Protocol):
    """Texts to conditions, in two halves: on the host, and as a pure function.

    negatives: the conditions that the unconditional prediction is told from a text of
        its own; the others are those of the prompt.
    """

    @property
    def negatives(self) -> tuple[str, ...]: ...

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """What `conditions` reads, by tokenisers."""
        ...

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        """The family's conditions; params: of the encoders, by name."""
        ...


@dataclass(frozen=True)
class ClassNames:
    """Labels by their names or numbers (DiT). names: of class 0, 1, ...; several names
    of one class are separated by commas."""

    names: tuple[str, ...]

    negatives = ()

    def tokens(self, texts: Sequence[str]) -> Tokens:
        known = {
            name.strip(): label
            for label, names in enumerate(self.names)
            for name in (str(label), names, *names.split(","))
        }
        for text in texts:
            if text.strip() not in known:
                raise ValueError(
                    f"prompt is {text!r}, but this model draws {len(self.names)} "
                    f"classes: 0 ({self.names[0]}) to {len(self.names) - 1} "
                    f"({self.names[-1]})"
                )
        labels = [known[text.strip()] for text in texts]
        return {"label": np.asarray(labels, np.int32)}

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        return {"label": jnp.asarray(tokens["label"])}


@dataclass(frozen=True)
class OneText:
    """One encoder's tokens, with their mask (PixArt: T5).

    told: whether the network is told the mask. read: whether the encoder is.
    negatives: Latte's are ("text",): it cuts a negative prompt where the prompt ends.
    """

    tower: TextTower
    told: bool = True
    read: bool = True
    negatives: tuple[str, ...] = ("text", "mask")

    def tokens(self, texts: Sequence[str]) -> Tokens:
        ids, mask = self.tower.tokenize(texts)
        return {"ids": ids, "mask": mask}

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        mask = jnp.asarray(tokens["mask"]).astype(bool)
        apply = self.tower.encoder.apply
        text = apply(params["text"], tokens["ids"], mask if self.read else None).tokens
        return {"text": text, "mask": mask} if self.told else {"text": text}


@dataclass(frozen=True)
class PooledAndText:
    """CLIP's pooled vector beside T5's tokens, neither masked (Flux)."""

    pooled: TextTower
    text: TextTower

    negatives = ("text", "pooled")

    def tokens(self, texts: Sequence[str]) -> Tokens:
        return {
            "pooled": self.pooled.tokenize(texts)[0],
            "text": self.text.tokenize(texts)[0],
        }

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        pooled = self.pooled.encoder.apply(params["pooled"], tokens["pooled"]).pooled
        text = self.text.encoder.apply(params["text"], tokens["text"]).tokens
        return {"pooled": pooled, "text": text}


@dataclass(frozen=True)
class TwoMaskedTexts:
    """Two encoders' tokens, each with its mask (HunyuanDiT: BERT and mT5)."""

    first: TextTower
    second: TextTower

    negatives = ("text", "mask", "second_text", "second_mask")

    def tokens(self, texts: Sequence[str]) -> Tokens:
        names = ("ids", "mask", "second_ids", "second_mask")
        found = (*self.first.tokenize(texts), *self.second.tokenize(texts))
        return dict(zip(names, found, strict=True))

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        masks = [jnp.asarray(tokens[f"{x}mask"]).astype(bool) for x in ("", "second_")]
        one = self.first.encoder.apply(params["first"], tokens["ids"], masks[0])
        two = self.second.encoder.apply(
            params["second"], tokens["second_ids"], masks[1]
        )
        return {
            "text": one.tokens,
            "mask": masks[0],
            "second_text": two.tokens,
            "second_mask": masks[1],
        }


@dataclass(frozen=True)
class Templated:
    """A language model's tokens of prompts in a template, without its beginning, with
    their mask (Qwen-Image: Qwen2.5-VL; HunyuanVideo: Llama, beside a pooled CLIP).

    tower: pads on the right. template: "{}" is where a prompt stands. start: tokens
        that are cut off. pooled: the encoder of "pooled", or None.
    bucket: texts are padded to a multiple of so many tokens, not to the encoder's whole
        length, so that few lengths are compiled and short prompts cost little.
    """

    tower: TextTower
    template: str
    start: int
    pooled: TextTower | None = None
    bucket: int = 64

    negatives = ("text", "mask", "pooled")

    def tokens(self, texts: Sequence[str]) -> Tokens:
        told = [self.template.replace("{}", text) for text in texts]
        ids, mask = self.tower.tokenize(told)
        longest = max(int(mask.sum(1).max()) - self.start, 1)
        length = self.start - longest // -self.bucket * self.bucket
        found = {"ids": ids[:, :length], "mask": mask[:, :length]}
        if self.pooled is not None:
            found["pooled"] = self.pooled.tokenize(texts)[0]
        return found

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        mask = jnp.asarray(tokens["mask"]).astype(bool)
        text = self.tower.encoder.apply(params["text"], tokens["ids"], mask).tokens
        found = {"text": text[:, self.start :], "mask": mask[:, self.start :]}
        if self.pooled is not None:
            pooled = self.pooled.encoder.apply(params["pooled"], tokens["pooled"])
            found["pooled"] = pooled.pooled
        return found


@dataclass(frozen=True)
class ThreeTexts:
    """Two CLIPs and T5 (Stable Diffusion 3; Esser et al., 2024, section 4 and B.3).

    The CLIPs' tokens lie side by side in width, padded with zeros to T5's, then follow
    T5's tokens; pooled vectors lie side by side.

    text: T5, or None where a folder leaves it out: `length` zeros of width `features`.
    """

    first: TextTower
    second: TextTower
    text: TextTower | None
    features: int
    length: int = 256

    negatives = ("text", "pooled")

    def tokens(self, texts: Sequence[str]) -> Tokens:
        towers = {"first": self.first, "second": self.second, "text": self.text}
        found = {k: t.tokenize(texts)[0] for k, t in towers.items() if t is not None}
        return found

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        one = self.first.encoder.apply(params["first"], tokens["first"])
        two = self.second.encoder.apply(params["second"], tokens["second"])
        clip = jnp.concatenate([one.tokens, two.tokens], -1)
        clip = jnp.pad(clip, ((0, 0), (0, 0), (0, self.features - clip.shape[-1])))
        if self.text is None:
            long = jnp.zeros((len(clip), self.length, self.features))
        else:
            long = self.text.encoder.apply(params["text"], tokens["text"]).tokens
        return {
            "text": jnp.concatenate([clip, long], 1),
            "pooled": jnp.concatenate([one.pooled, two.pooled], -1),
        }
