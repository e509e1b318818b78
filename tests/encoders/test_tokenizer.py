# SPDX-License-Identifier: Apache-2.0
"""Text to ids, with vocabularies that are made here."""

import io
import json
import sys

import numpy as np
import pytest
from encoders.tiny_vocabulary import clip_folder

from jdit.encoders import Bytes, Tokenizer, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")

CORPUS = ["a cat sat on a mat", "two cats, three dogs!", "the dog's mat is red"]


def write(folder, name, **fields):
    (folder / name).write_text(json.dumps(fields))


@pytest.fixture
def words(tmp_path):
    """A BERT-like tokenizer.json: one id a word, between [CLS] and [SEP]."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "mat"]
    model = tokenizers.models.WordLevel(
        {name: i for i, name in enumerate(names)}, unk_token="[UNK]"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=50, pad_id=1)  # which is not heeded
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "tokenizer_config.json", model_max_length=6, pad_token="[PAD]")
    return tmp_path


def test_ids_are_padded_cut_and_masked(words):
    tokenize = load_tokenizer(words)
    ids, mask = tokenize(["a cat", "a cat sat a mat a cat", ""])
    assert ids.tolist() == [[2, 4, 5, 3, 0, 0], [2, 4, 5, 6, 4, 3], [2, 3, 0, 0, 0, 0]]
    assert mask.sum(1).tolist() == [4, 6, 2] and mask.dtype == bool
    assert np.array_equal(mask, np.arange(6) < mask.sum(1)[:, None])
    assert tokenize("dog", length=3).ids.tolist() == [[2, 1, 3]]
    assert tokenize("a cat").ids.shape == (1, 6)  # the length is the usual one again


def test_padding_on_the_left(words):
    ids, mask = load_tokenizer(words, length=5, pad=7, side="left")("a")
    assert ids.tolist() == [[7, 7, 2, 4, 3]]
    assert mask.tolist() == [[False, False, True, True, True]]


def test_clip_words_beginnings_and_ends(tmp_path):
    clip_folder(tmp_path)
    tokenize = load_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    ids, mask = tokenize(["A  Cat\n\tsat", "a cat sat"])
    assert np.array_equal(ids[0], ids[1])  # small letters, single spaces
    assert ids[0, 0] == begin and mask.sum(1).tolist() == [5, 5]
    assert ids[0, 4] == end and set(ids[0, 5:]) == {end}  # padded with the end
    assert vocabulary["cat</w>"] == ids[0, 2]
    long = tokenize("cat " * 30).ids
    assert long.shape == (1, 12) and long[0, -1] == end


def test_clip_padding_may_be_another_token(tmp_path):
    clip_folder(tmp_path, pad_token={"content": "!", "special": True})
    ids, mask = load_tokenizer(tmp_path)("cat")
    assert set(ids[~mask]) == {0} and mask.sum() == 3


@pytest.fixture
def pieces(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    plain = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return tmp_path, plain


def test_sentence_pieces_end_as_t5_wants(pieces):
    folder, plain = pieces
    write(folder, "special_tokens_map.json", pad_token="<pad>", eos_token="</s>")
    ids, mask = load_tokenizer(folder, length=8)(["a cat", "a cat sat on a mat"])
    want = plain.encode("a cat")
    assert ids[0, : len(want) + 1].tolist() == [*want, 1] and not ids[0][~mask[0]].any()
    assert ids[1].tolist() == [*plain.encode("a cat sat on a mat")[:7], 1]


def test_sentence_pieces_begin_as_llama_wants(pieces):
    folder, plain = pieces
    (folder / "spiece.model").rename(folder / "tokenizer.model")
    config = dict(tokenizer_class="LlamaTokenizer", model_max_length=int(1e30))
    write(folder, "tokenizer_config.json", **config, eos_token="</s>")
    with pytest.raises(ValueError, match="names no model_max_length: pass length"):
        load_tokenizer(folder)
    ids, mask = load_tokenizer(folder, length=9)("a cat")
    want = [3, *plain.encode("a cat")]
    assert ids[0, : len(want)].tolist() == want
    assert set(ids[~mask]) == {1}  # the end pads where there is no padding
    both = config | dict(add_bos_token=False, add_eos_token=True)
    write(folder, "tokenizer_config.json", **both, eos_token="</s>")
    assert load_tokenizer(folder, length=3)("cat cat").ids[0, -1] == 1


def test_bytes_are_ids_behind_three_others(tmp_path):
    config = dict(tokenizer_class="ByT5Tokenizer", pad_token="<pad>")
    write(tmp_path, "tokenizer_config.json", **config)
    ids, mask = load_tokenizer(tmp_path, length=6)(["a\u00e9", "", "longer text"])
    assert ids[0].tolist() == [97 + 3, 0xC3 + 3, 0xA9 + 3, 1, 0, 0]
    assert bytes(int(i) - 3 for i in ids[2, :5]) == b"longe" and ids[2, 5] == 1
    assert mask.sum(1).tolist() == [4, 1, 6] and not ids[~mask].any()
    with pytest.raises(ValueError, match="length is 1, but 1 ids begin and end"):
        Tokenizer(Bytes(), 1, 0)("a")


def test_what_is_refused(words, tmp_path):
    with pytest.raises(FileNotFoundError, match="has none of tokenizer.json, vocab.js"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="length is 2, but 2 ids begin and end"):
        load_tokenizer(words, length=2)("a")
    with pytest.raises(ValueError, match="side is 'top'"):
        load_tokenizer(words, side="top")
    with pytest.raises(ValueError, match="texts hold a int, not a str"):
        load_tokenizer(words)(["a", 3])
    write(words, "tokenizer_config.json", model_max_length=6)
    with pytest.raises(ValueError, match="names no pad_token or eos_token: pass pad"):
        load_tokenizer(words)
    other = words / "other"
    other.mkdir()
    write(other, "vocab.json", a=0)
    (other / "merges.txt").write_text("a b")
    write(other, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(ValueError, match="of a GPT2Tokenizer, but without a tokenizer"):
        load_tokenizer(other)
    clip_folder(words / "clip")
    (words / "clip" / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(ValueError, match="has 'a b c', which is no pair"):
        load_tokenizer(words / "clip")


@pytest.mark.parametrize("library", ["tokenizers", "sentencepiece"])
def test_a_missing_library_names_its_extra(tmp_path, monkeypatch, library):
    name = "tokenizer.json" if library == "tokenizers" else "spiece.model"
    (tmp_path / name).write_text("")
    monkeypatch.setitem(sys.modules, library, None)  # an import of it now fails
    with pytest.raises(ImportError, match=rf"{library} is not .*'jdit\[text\]'"):
        load_tokenizer(tmp_path, length=4)
