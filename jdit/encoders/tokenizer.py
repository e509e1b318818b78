# SPDX-License-Identifier: Apache-2.0
"""Text to ids, through the `tokenizers` and `sentencepiece` libraries."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from jdit.encoders.bpe import clip_bpe, qwen_bpe
from jdit.encoders.wordpiece import bert_pieces
from jdit.interop.files import read_json
from jdit.typing import Bool, Int

_PIECES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_BYTES = {"<pad>": 0, "</s>": 1, "<unk>": 2}
"""The ids of ByT5 that are no bytes."""
_ENDLESS = 10**6
"""transformers writes 1e30 for a tokeniser that knows no length."""


class Tokens(NamedTuple):
    """Ids `b m`, and which of them are text, with what begins and ends it."""

    ids: Int[np.ndarray, "b m"]
    mask: Bool[np.ndarray, "b m"]


class Words(Protocol):
    """One text to at most `length` ids, with what begins and ends it."""

    def __call__(self, text: str, length: int) -> list[int]: ...


@dataclass(frozen=True)
class Pieces:
    """Words by a SentencePiece model.

    processor: a `sentencepiece.SentencePieceProcessor`. first, last: ids that are put
    before and after every text, and are kept when it is cut.
    """

    processor: Any
    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()

    def __call__(self, text: str, length: int) -> list[int]:
        room = _room(length, len(self.first) + len(self.last))
        return [*self.first, *self.processor.encode(text)[:room], *self.last]


@dataclass(frozen=True)
class Fast:
    """Words by a `tokenizers.Tokenizer`, which knows what begins and ends a text."""

    tokenizer: Any

    def __call__(self, text: str, length: int) -> list[int]:
        _room(length, self.tokenizer.num_special_tokens_to_add(False))
        self.tokenizer.enable_truncation(length)
        self.tokenizer.no_padding()
        return self.tokenizer.encode(text).ids


@dataclass(frozen=True)
class Bytes:
    """The bytes of a text, for models without a vocabulary (ByT5; Xue et al., 2021).

    A byte of UTF-8 is the id `byte + 3`, behind padding, end and unknown, and `last`
    ends every text, also one that is cut, which may fall into a letter. What spells a
    special token is text like any other.
    """

    last: int = 1

    def __call__(self, text: str, length: int) -> list[int]:
        room = _room(length, 1)
        return [*(byte + len(_BYTES) for byte in text.encode()[:room]), self.last]


def _room(length: int, special: int) -> int:
    if length <= special:
        raise ValueError(
            f"length is {length}, but {special} ids begin and end every text"
        )
    return length - special


@dataclass(frozen=True)
class Tokenizer:
    """Texts to ids of one length.

    words: one text to ids. length: that every text is cut or padded to.
    pad: the id that pads. side: where it is put.
    """

    words: Words
    length: int
    pad: int
    side: Literal["right", "left"] = "right"

    def __post_init__(self) -> None:
        if self.side not in ("right", "left"):
            raise ValueError(f"side is {self.side!r}, but it must be 'right' or 'left'")

    def __call__(self, texts: str | Sequence[str], length: int | None = None) -> Tokens:
        """Ids and mask of one text or several; length: another than the usual."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"texts hold a {type(text).__name__}, not a str")
        length = self.length if length is None else length
        ids = np.full((len(texts), length), self.pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, text in enumerate(texts):
            found = self.words(text, length)
            own = slice(0, len(found))
            if self.side == "left":
                own = slice(length - len(found), length)
            ids[row, own], mask[row, own] = found, True
        return Tokens(ids, mask)


def load_tokenizer(
    folder: str | Path,
    *,
    length: int | None = None,
    pad: int | None = None,
    side: Literal["right", "left"] | None = None,
) -> Tokenizer:
    """A tokeniser from a folder that transformers wrote.

    folder: with tokenizer.json; or the vocab.json and merges.txt of CLIP or Qwen2; or
        a SentencePiece model (spiece.model, tokenizer.model); or BERT's vocab.txt. The
        first of these that is there is read. ByT5's has none of them, but a config that
        names its class.
    length, pad, side: None takes the folder's model_max_length, its pad token (or, as
        for Llama, which has none, its end of text) and its padding_side, from
        tokenizer_config.json and special_tokens_map.json.

    What begins and ends a text is what tokenizer.json says; around SentencePiece's, an
    end for T5 and a beginning for Llama and Gemma, unless the config says add_bos_token
    or add_eos_token. Chat templates are the caller's business.

    Raises FileNotFoundError; ImportError, which names the extra `text`; and ValueError
    for what cannot be found out.
    """
    folder = Path(folder)
    config = _config(folder)
    pieces = [name for name in _PIECES if (folder / name).is_file()]
    if (folder / "tokenizer.json").is_file():
        library = _library("tokenizers")
        tokenizer = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
        words: Words = Fast(tokenizer)
        find = tokenizer.token_to_id
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        qwen = str(config.get("tokenizer_class")).startswith("Qwen2")
        make = qwen_bpe if qwen else clip_bpe
        tokenizer = make(_library("tokenizers"), folder, config)
        words, find = Fast(tokenizer), tokenizer.token_to_id
    elif pieces:
        words, find = _pieces(folder / pieces[0], config)
    elif (folder / "vocab.txt").is_file():
        tokenizer = bert_pieces(_library("tokenizers"), folder, config)
        words, find = Fast(tokenizer), tokenizer.token_to_id
    elif str(config.get("tokenizer_class")).startswith("ByT5"):
        words, find = Bytes(), _BYTES.get
    else:
        raise FileNotFoundError(
            f"{folder} has none of tokenizer.json, vocab.json with merges.txt, "
            f"{', '.join(_PIECES)}, vocab.txt"
        )
    longest = config.get("model_max_length")
    if length is None and isinstance(longest, int) and longest < _ENDLESS:
        length = longest
    if length is None:
        raise ValueError(f"{folder} names no model_max_length: pass length")
    if pad is None:
        names = [config.get("pad_token"), config.get("eos_token")]
        found = (find(name) for name in names if name is not None)
        pad = next((i for i in found if i is not None), None)
    if pad is None:
        raise ValueError(f"{folder} names no pad_token or eos_token: pass pad")
    if side is None:
        side = config.get("padding_side", "right")
    return Tokenizer(words, length, pad, side)  # type: ignore[arg-type]


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json, tokens as plain strings."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            own = read_json(folder / name)
            config |= {key: value for key, value in own.items() if value is not None}

    def plain(value: Any) -> Any:
        return (
            value["content"]
            if isinstance(value, dict) and "content" in value
            else value
        )

    return {key: plain(value) for key, value in config.items()}


def _pieces(path: Path, config: dict[str, Any]) -> tuple[Pieces, Any]:
    library = _library("sentencepiece")
    processor = library.SentencePieceProcessor(model_file=str(path))
    kind = str(config.get("tokenizer_class", "T5"))
    begins = config.get("add_bos_token", kind.startswith(("Llama", "Gemma")))
    ends = config.get("add_eos_token", "T5" in kind)

    def find(name: str) -> int | None:
        index = processor.piece_to_id(name)
        return index if processor.id_to_piece(index) == name else None

    def special(wanted: bool, name: str, own: int) -> tuple[int, ...]:
        index = find(config[name]) if name in config else own
        if wanted and (index is None or index < 0):
            raise ValueError(f"{path} has no {name}, but every text needs one")
        return (index,) if wanted and index is not None else ()

    first = special(begins, "bos_token", processor.bos_id())
    last = special(ends, "eos_token", processor.eos_id())
    return Pieces(processor, first, last), find


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            f"{name} is not installed, but this tokeniser needs it: pip install "
            "'jdit[text]'"
        ) from None
