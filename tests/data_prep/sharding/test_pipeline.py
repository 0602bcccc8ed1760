"""From text to shards: each line once, and bytes that depend on text, tokenizer and options."""

import gzip
import json
import random

import pytest

from bertds.data.shards.reader import ShardSet
from data_prep.sharding import stages
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from tests.data_prep.sharding.conftest import SMALL_SHARDS
from tests.data_prep.sharding.shard_contents import read_files, read_splits, read_texts
from tests.helpers.shard_verify import faults_of


def test_each_line_is_in_one_split_exactly_once(make, text):
    out = make(text)
    train, valid = read_texts(out / "train"), read_texts(out / "valid")
    assert sorted(train + valid) == sorted(line.lower() for line in text)
    assert 0.05 < len(valid) / len(text) < 0.15
    for name, lines in (("train", train), ("valid", valid)):
        index = ShardSet.open(out / name).index
        assert (index.sequences, index.lines) == (len(lines), len(lines))
        assert index.characters == sum(map(len, lines))
        assert faults_of(out / name) == []
    assert sorted(path.name for path in out.iterdir()) == ["made.json", "train", "valid"]


@pytest.mark.usefixtures("small_pieces")
def test_bytes_do_not_depend_on_chunks_and_groups(make, text, expected_splits):
    assert read_splits(make(text, options=SMALL_SHARDS)) == expected_splits


def test_bytes_do_not_depend_on_the_number_of_workers(make, text, expected_splits):
    assert read_splits(make(text, options=SMALL_SHARDS, workers=2)) == expected_splits


def test_bytes_do_not_depend_on_the_order_of_lines(make, text, expected_splits):
    shuffled = random.Random(1).sample(text, len(text))
    assert read_splits(make(shuffled, options=SMALL_SHARDS)) == expected_splits


def test_bytes_do_not_depend_on_files_and_compression(
    tmp_path, text, tokenizer_path, expected_splits
):
    (tmp_path / "a.txt").write_text("\n".join(text[:300]))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(text[300:500]).encode()))
    objects = [json.dumps({"text": line}) for line in text[500:]]
    (tmp_path / "c.jsonl").write_text("\n".join(objects))
    for number, order in enumerate(("abc", "cab")):
        spec = ",".join(f"{tmp_path}/{letter}.*" for letter in order)
        make_shards(spec, tokenizer_path, tmp_path / str(number), SMALL_SHARDS, 1)
        assert read_splits(tmp_path / str(number)) == expected_splits
    assert read_files(tmp_path / "0") == read_files(tmp_path / "1")


def test_joined_documents_do_not_depend_on_the_number_of_files(
    tmp_path, text, tokenizer_path, monkeypatch
):
    """The header of a part from a small file is as large as its rows, and must not count."""
    monkeypatch.setattr(stages, "GROUP_BYTES", 16_000)
    options = ShardOptions(join="documents", shard_bytes=1)
    (tmp_path / "one").write_text("\n".join(text))
    for number in range(0, len(text), 20):
        (tmp_path / f"many-{number}").write_text("\n".join(text[number : number + 20]))
    make_shards(str(tmp_path / "one"), tokenizer_path, tmp_path / "out-one", options, 1)
    make_shards(str(tmp_path / "many-*"), tokenizer_path, tmp_path / "out-many", options, 1)
    assert read_splits(tmp_path / "out-one") == read_splits(tmp_path / "out-many")


def test_bytes_depend_on_the_seed_and_the_text(make, text, expected_splits):
    other_seed = make(text, "a", ShardOptions(special_tokens=False, shard_bytes=1, seed=1))
    other_text = make([*text[:-2], "one other line", "and one more"], "b", SMALL_SHARDS)
    same = make(text, "c", SMALL_SHARDS)
    assert read_splits(other_seed) != expected_splits
    assert read_splits(same) == expected_splits
    assert sorted(read_texts(other_seed / "valid")) == sorted(read_texts(same / "valid"))
    set_keys = {
        ShardSet.open(out / "train").index.set_key for out in (other_seed, other_text, same)
    }
    assert len(set_keys) == 3


@pytest.mark.parametrize("empty", [[""], ["\n\n\n"], ["   ", "\t"], ["\0"], ["\ufeff"]])
def test_text_without_a_sequence_is_an_error_and_leaves_nothing(make, tmp_path, empty):
    with pytest.raises(ValueError, match="is empty: expected|the text is too small|is binary"):
        make(empty)
    assert not (tmp_path / "out").exists()


def test_text_too_small_for_validation_is_an_error_and_leaves_nothing(make, text, tmp_path):
    with pytest.raises(ValueError, match=r"out/valid gets no sequence; .* --valid_fraction"):
        make(text[:1], options=ShardOptions(valid_fraction=1e-9))
    assert not (tmp_path / "out").exists()
