"""Encoding by words gives the very ids of the library on whole lines."""

import json
from collections import Counter

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from bertds.data.tokenizer import Tokenizer
from data_prep import train_tokenizer
from data_prep.readers.cleaning import clean_lines
from data_prep.readers.sources import open_sources
from data_prep.sharding import encoder as encode_module
from data_prep.sharding.encoder import LineEncoder


@pytest.fixture(scope="module")
def by_word(lines, tmp_path_factory):
    """A tokenizer of ours, lower-cased."""
    directory = tmp_path_factory.mktemp("encode")
    text = [*lines["ko"], *lines["en"], "the WORDS of ▁ a line, 단어와 말"] * 6
    (directory / "text").write_text("\n".join(text))
    with open_sources(str(directory / "text"), directory) as sources:
        learnt = train_tokenizer.learn(sources, 300, lowercase=True, min_count=5)
    train_tokenizer.write(directory / "t.json", train_tokenizer.build(learnt, 300, lowercase=True))
    tokenizer = Tokenizer.load(directory / "t.json")
    assert tokenizer.words_are_independent
    return tokenizer


def check(encoder, lines):
    tokens, lengths = encoder.encode(lines)
    wanted = encoder.tokenizer.encode_batch(lines)
    assert lengths.tolist() == [len(row) for row in wanted]
    assert tokens.tolist() == [number for row in wanted for number in row]
    assert tokens.dtype == np.dtype(encoder.dtype)


words = st.text(
    st.sampled_from("▁ΣσςİıÅéßABcdefg한글가나다라.,![]MASKUN ,\u0301\u0307\u1100\u200d😀"),
    max_size=12,
)


@given(st.lists(words, max_size=12))
def test_words_give_the_ids_of_lines(by_word, texts):
    clean = clean_lines("\n".join(texts).encode("utf-8", "replace"), "lines", Counter())
    check(LineEncoder(by_word), clean)


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6)))
def test_any_text_does(by_word, lines):
    text = "\n".join(" ".join(line) for line in lines)
    check(LineEncoder(by_word), clean_lines(text.encode(), "lines", Counter()))


def test_what_was_learned_stays_right(by_word, lines):
    encoder = LineEncoder(by_word)
    for start in range(0, 400, 50):
        check(encoder, lines["ko"][start : start + 50] + lines["en"][: start + 1])
    check(encoder, [])


def test_a_full_table_is_begun_anew(by_word, lines, monkeypatch):
    monkeypatch.setattr(encode_module, "_MAX_CHARACTERS", 200)
    monkeypatch.setattr(encode_module, "_BATCH_CHARACTERS", 30)
    encoder = LineEncoder(by_word)
    for start in range(0, 400, 50):
        check(encoder, lines["ko"][start : start + 50])
        assert encoder._characters == 0


def test_other_tokenizers_get_whole_lines(tmp_path, lines):
    backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[MASK]"], show_progress=False
    )
    backend.train_from_iterator(lines["ko"], trainer)
    backend.save(str(tmp_path / "t.json"))
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert not tokenizer.words_are_independent
    check(LineEncoder(tokenizer), lines["ko"][:100])


def test_a_vocabulary_without_the_word_mark_is_no_exception(by_word, tmp_path):
    """An unknown mark leaves nothing to tell where a word begins."""
    content = json.loads(by_word.content)
    ids = content["model"]["vocab"]
    for token in [token for token in ids if token.startswith("▁")]:
        ids["other" + token[1:]] = ids.pop(token)
    content["model"]["merges"] = []
    (tmp_path / "t.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert tokenizer.words_are_independent
    check(LineEncoder(tokenizer), ["a b 가", "the words of a line"])
