"""Encoding by words gives exactly the ids of the library for whole lines."""

import json
from collections import Counter

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from bertds.data.tokenizer import Tokenizer
from data_prep import train_tokenizer
from data_prep.readers.cleaning import clean_lines
from data_prep.readers.sources import open_sources
from data_prep.sharding import encoder as encoder_module
from data_prep.sharding.encoder import LineEncoder
from data_prep.tokenizer_file import ByteOptions


@pytest.fixture(
    scope="module",
    params=[(), ("byte_fallback",), ("byte_level",), ("byte_level", "keep_white_space")],
)
def tokenizer(request, lines, tmp_path_factory):
    """A lower-casing tokenizer of `data_prep`, which splits text at spaces."""
    options = ByteOptions(**dict.fromkeys(request.param, True))
    directory = tmp_path_factory.mktemp("encode")
    text = [*lines["ko"], *lines["en"], "the WORDS of ▁ a line, 단어와 말"] * 6
    text.append("a.\x1c " * 9000)  # white space in Python, but not in the library
    (directory / "text").write_text("\n".join(text))
    with open_sources(str(directory / "text"), directory) as sources:
        vocabulary = train_tokenizer.learn(
            sources, 300, lowercase=True, min_count=5, options=options
        )
    content = train_tokenizer.build(vocabulary, 300, lowercase=True, options=options)
    train_tokenizer.write(directory / "t.json", content)
    tokenizer = Tokenizer.load(directory / "t.json")
    assert tokenizer.words_are_independent or tokenizer.words_have_their_blank
    return tokenizer


def check(encoder, lines):
    tokens, lengths = encoder.encode(lines)
    expected = encoder.tokenizer.encode_batch(lines)
    assert lengths.tolist() == [len(ids) for ids in expected]
    assert tokens.tolist() == [token for ids in expected for token in ids]
    assert tokens.dtype == np.dtype(encoder.dtype)


difficult_text = st.text(
    st.sampled_from("▁ΣσςİıÅéßABcdefg한글가나다라.,![]MASKUN ,\u0301\u0307\u1100\u200d😀"),
    max_size=12,
)


@given(st.lists(difficult_text, max_size=12))
def test_difficult_characters(tokenizer, texts):
    clean = clean_lines("\n".join(texts).encode("utf-8", "replace"), "lines", Counter())
    check(LineEncoder(tokenizer), clean)


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6)))
def test_any_text(tokenizer, lines):
    text = "\n".join(" ".join(line) for line in lines)
    check(LineEncoder(tokenizer), clean_lines(text.encode(), "lines", Counter()))


white_space = "".join(chr(point) for point in range(0x3001) if chr(point).isspace())


@example(["a.\x1cb", "a.\x1f\n"])
@given(st.lists(st.text(st.sampled_from(white_space * 2 + "ab1.'▁가\u0301"), max_size=12)))
def test_any_white_space(tokenizer, documents):
    if tokenizer.keeps_white_space:
        lines = "".join(json.dumps({"text": each}) + "\n" for each in documents).encode()
        check(LineEncoder(tokenizer), clean_lines(lines, "jsonl", Counter(), keep_white_space=True))


def test_cached_words_are_right_in_later_batches(tokenizer, lines):
    encoder = LineEncoder(tokenizer)
    for start in range(0, 400, 50):
        check(encoder, lines["ko"][start : start + 50] + lines["en"][: start + 1])
    check(encoder, [])


def test_a_full_table_is_cleared(tokenizer, lines, monkeypatch):
    monkeypatch.setattr(encoder_module, "_MAX_CHARACTERS", 200)
    monkeypatch.setattr(encoder_module, "_BATCH_CHARACTERS", 30)
    encoder = LineEncoder(tokenizer)
    for start in range(0, 400, 50):
        check(encoder, lines["ko"][start : start + 50])
        assert encoder._characters == 0


def test_other_tokenizers_get_whole_lines(tmp_path, lines):
    backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[MASK]"], show_progress=False
    )
    backend.train_from_iterator(lines["ko"], trainer)
    backend.save(str(tmp_path / "t.json"))
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert not tokenizer.words_are_independent
    assert not tokenizer.words_have_their_blank
    check(LineEncoder(tokenizer), lines["ko"][:100])


def test_a_vocabulary_without_the_word_mark(tokenizer, tmp_path):
    """If the mark is an unknown token, nothing tells where a word begins."""
    content = json.loads(tokenizer.content)
    ids = content["model"]["vocab"]
    for token in [token for token in ids if token.startswith(("▁", "Ġ"))]:
        ids["other" + token[1:]] = ids.pop(token)
    content["model"]["merges"] = []
    (tmp_path / "t.json").write_text(json.dumps(content))
    without_mark = Tokenizer.load(tmp_path / "t.json")
    assert without_mark.words_are_independent or without_mark.words_have_their_blank
    check(LineEncoder(without_mark), ["a b 가", "the words of a line"])
