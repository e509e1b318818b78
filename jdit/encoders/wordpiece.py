# SPDX-License-Identifier: Apache-2.0
"""BERT's pieces of words, from its vocabulary."""

from pathlib import Path
from typing import Any


def bert_pieces(library: Any, folder: Path, config: dict[str, Any]) -> Any:
    """A `tokenizers.Tokenizer` that does what BERT's does, of a vocab.txt.

    Control characters go, Chinese characters stand alone, and where do_lower_case is
    true, which it is if not said, letters become small ones without accents. Words are
    cut into the longest known pieces, and a text stands between [CLS] and [SEP].

    library: `tokenizers`. config: of tokenizer_config.json.
    Raises ValueError for a vocabulary without these.
    Source: google-research/bert, tokenization.py; transformers' BertTokenizer.
    """
    path = folder / "vocab.txt"
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vocabulary = {line.rstrip("\r"): index for index, line in enumerate(lines)}
    unknown = config.get("unk_token", "[UNK]")
    begin, end = config.get("cls_token", "[CLS]"), config.get("sep_token", "[SEP]")
    missing = {unknown, begin, end} - vocabulary.keys()
    if missing:
        raise ValueError(f"{path} has no {sorted(missing)[0]}, but every text needs it")
    pieces = library.models.WordPiece(
        vocabulary, unk_token=unknown, max_input_chars_per_word=100
    )
    tokenizer = library.Tokenizer(pieces)
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(token, vocabulary[token]) for token in (begin, end)],
    )
    names = [config.get(f"{kind}_token") for kind in ("pad", "mask")]
    special = [unknown, begin, end, *(name for name in names if name in vocabulary)]
    tokenizer.add_special_tokens(special)
    return tokenizer
