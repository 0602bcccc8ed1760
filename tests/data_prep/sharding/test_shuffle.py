"""Stage 2: duplicates, the split, the shuffle, and rows that become sequences."""

import itertools
import json
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.shards.reader import ShardSet
from data_prep.sharding.options import SequenceFormat, ShardOptions
from data_prep.sharding.shuffle import format_sequences
from data_prep.train_tokenizer import make_tokenizer
from tests.data_prep.sharding.shard_contents import read_sequences, read_texts


def test_duplicates_are_dropped_ignoring_case_and_white_space(make, text):
    repeated = [*text, *(f"  {line.upper()}  " for line in text[:50]), *text[100:120]]
    out, unique = make(repeated, "repeated"), make(text, "unique")
    for split in ("train", "valid"):
        assert read_sequences(out / split) == read_sequences(unique / split)
    dropped = [ShardSet.open(out / split).index.dropped for split in ("train", "valid")]
    assert sum(each.get("duplicate lines", 0) for each in dropped) == 70
    counts = json.loads((out / "made.json").read_text())["counts"]
    assert counts == {"lines": 870, "lines kept": 800, "duplicate lines": 70}
    kept = make(repeated, "kept", ShardOptions(special_tokens=False, dedup=False))
    lines = [*read_texts(kept / "train"), *read_texts(kept / "valid")]
    assert Counter(lines) == Counter(" ".join(line.lower().split()) for line in repeated)


def test_the_split_is_the_same_for_every_vocabulary(make, text, tmp_path):
    (tmp_path / "text").write_text("\n".join(text))
    make_tokenizer(str(tmp_path / "text"), 20, tmp_path / "t.json", True, 1)
    out, other = make(text, "a"), make(text, "b", tokenizer=tmp_path / "t.json")
    for split in ("train", "valid"):
        assert read_texts(out / split) == read_texts(other / split)
    set_keys = {ShardSet.open(path / "train").index.set_key for path in (out, other)}
    assert len(set_keys) == 2


def test_a_larger_validation_set_contains_the_smaller_one(make, text):
    small = make(text, "a", ShardOptions(valid_fraction=0.1))
    large = make(text, "b", ShardOptions(valid_fraction=0.4))
    assert set(read_texts(small / "valid")) < set(read_texts(large / "valid"))
    none = make(text, "c", ShardOptions(valid_fraction=0))
    assert not (none / "valid").exists()
    assert len(read_sequences(none / "train")) == len(text)


def test_the_order_is_shuffled(make, text):
    train = read_texts(make(text) / "train")
    order = [text.index(line) for line in train if line in text]  # lower-case lines only
    assert len(order) > 300
    correlation = np.corrcoef(order, np.arange(len(order)))[0, 1]
    assert abs(correlation) < 0.15


def test_joined_documents_fill_sequences(make, text):
    options = ShardOptions(valid_fraction=0, seq_len=64, join="documents")
    joined = read_sequences(make(text, options=options) / "train")
    documents = []
    for ids in joined:
        assert ids[0] == 2
        assert ids[-1] == 3
        assert len(ids) <= 64
        parts = itertools.groupby(ids[1:], lambda token: token == 3)
        documents += [tuple(part) for is_separator, part in parts if not is_separator]
    options = ShardOptions(valid_fraction=0, seq_len=64)
    separate = read_sequences(make(text, "separate", options) / "train")
    assert Counter(documents) == Counter(tuple(ids[1:-1]) for ids in separate)
    assert len(joined) < len(separate)


@given(
    lengths=st.lists(st.integers(1, 8), max_size=30),
    special=st.booleans(),
    join=st.sampled_from(["none", "documents"]),
)
def test_sequences_equal_those_of_a_row_by_row_implementation(lengths, special, join):
    sequence_format = SequenceFormat(cls_id=2 if special else None, sep_id=3, join=join, seq_len=10)
    ids = iter(range(10, 10_000))
    rows = [[next(ids) for _ in range(length)] for length in lengths]
    sequences: list[list[int]] = []
    for row in rows:
        document = [*row, 3] if special else row
        separator = [] if special else [3]
        joined = [*sequences[-1], *separator, *document] if sequences else []
        if join == "documents" and sequences and len(joined) <= 10:
            sequences[-1] = joined
        else:
            sequences.append([2, *document] if special else document)
    flat = np.array([token for row in rows for token in row], dtype=np.uint16)
    tokens, found = format_sequences(flat, np.array(lengths, dtype=np.int64), sequence_format)
    assert found.tolist() == [len(sequence) for sequence in sequences]
    assert tokens.tolist() == [token for sequence in sequences for token in sequence]
