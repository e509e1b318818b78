# SPDX-License-Identifier: Apache-2.0
"""How a family's prompts become its conditions: tokenisers, encoders, their order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
