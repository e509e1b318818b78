# SPDX-License-Identifier: Apache-2.0
"""CLIP's and Qwen's byte-pair encodings, from their vocabularies and merges."""

from pathlib import Path
from typing import Any

from jdit.interop.files import read_json

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""What is a word: a special token, an English ending, letters, one digit, the rest."""


def clip_bpe(library: Any, folder: Path, config: dict[str, Any]) -> Any:
    """A `tokenizers.Tokenizer` that does what CLIP's does.

    Text is composed (NFC), runs of white space become one space, letters small ones;
    words end in "</w>", and every text stands between a beginning and an end. Special
    tokens, the padding's too, are found in texts before all that: with "!" as padding,
    as in SDXL's second tokeniser, an exclamation mark is id 0.

    library: `tokenizers`. config: of tokenizer_config.json.
    Raises ValueError for a folder that is not CLIP's.
    Source: openai/CLIP, clip/simple_tokenizer.py; transformers' CLIPTokenizer.
    """
    vocabulary = read_json(folder / "vocab.json")
    kind = config.get("tokenizer_class", "CLIPTokenizer")
    begin, end = config.get("bos_token", _BEGIN), config.get("eos_token", _END)
    if not str(kind).startswith("CLIP") or not {begin, end} <= vocabulary.keys():
        raise ValueError(
            f"{folder} has vocab.json and merges.txt of a {kind}, but without a "
            f"tokenizer.json only CLIP's are read, with {begin} and {end}"
        )
    unknown = config.get("unk_token", end)
    tokenizer = library.Tokenizer(
        library.models.BPE(
            vocab=vocabulary,
            merges=_merges(folder / "merges.txt"),
            end_of_word_suffix="</w>",
            unk_token=unknown,
        )
    )
    split = library.Regex(_WORDS)
    normalizers, before = library.normalizers, library.pre_tokenizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(library.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = before.Sequence(
        [
            before.Split(split, behavior="removed", invert=True),
            before.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = library.processors.RobertaProcessing(
        (end, vocabulary[end]),
        (begin, vocabulary[begin]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    special = [begin, end, unknown, config.get("pad_token", end)]
    tokenizer.add_special_tokens(list(dict.fromkeys(special)))
    return tokenizer


_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What Qwen's merges stay within: a word with what stands before it, one digit, ..."""


def qwen_bpe(library: Any, folder: Path, config: dict[str, Any]) -> Any:
    """A `tokenizers.Tokenizer` that does what Qwen2's does: every byte is a letter.

    Text is composed (NFC); nothing begins or ends it. Tokens that were added to the
    vocabulary, such as <|im_start|>, are found in texts before all that.

    library: `tokenizers`. config: of tokenizer_config.json, which names added tokens.
    Raises ValueError where these do not follow the vocabulary.
    Source: Qwen/Qwen2.5's tokenizer.json; transformers' Qwen2Tokenizer.
    """
    vocabulary = read_json(folder / "vocab.json")
    merges = _merges(folder / "merges.txt")
    tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=merges))
    before = library.pre_tokenizers
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = before.Sequence(
        [
            before.Split(library.Regex(_PIECES), behavior="isolated"),
            before.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    added = config.get("added_tokens_decoder") or {}
    names = {int(i): entry["content"] for i, entry in added.items()}
    for index, name in sorted(names.items()):
        tokenizer.add_tokens([library.AddedToken(name, normalized=False)])
        if tokenizer.token_to_id(name) != index:
            raise ValueError(
                f"{folder} adds the token {name!r} as {index}, but the vocabulary "
                f"makes it {tokenizer.token_to_id(name)}"
            )
    return tokenizer


def _merges(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = [
        line.split(" ") for line in lines if line and not line.startswith("#version")
    ]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"{path} has {' '.join(pair)!r}, which is no pair")
    return [(left, right) for left, right in pairs]
