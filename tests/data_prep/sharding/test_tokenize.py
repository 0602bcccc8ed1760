"""Stage 1: long lines are cut, lines without a maskable token are dropped, and all is counted."""

import json
from collections import Counter

import pytest

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from tests.data_prep.sharding.shard_contents import read_sequences
from tests.helpers.shard_verify import faults_of


@pytest.mark.parametrize("seq_len", [4, 5, 9])
@pytest.mark.parametrize("special_tokens", [True, False])
def test_long_lines_are_cut_into_pieces(make, text, tokenizer_path, seq_len, special_tokens):
    options = ShardOptions(valid_fraction=0, seq_len=seq_len, special_tokens=special_tokens)
    sequences = read_sequences(make(text[:60], options=options) / "train")
    assert max(map(len, sequences)) == seq_len
    width = seq_len - 2 if special_tokens else seq_len
    if special_tokens:
        assert all((ids[0], ids[-1]) == (2, 3) for ids in sequences)
        sequences = [ids[1:-1] for ids in sequences]
    lines = Tokenizer.load(tokenizer_path).encode_batch(text[:60])
    pieces = [line[start : start + width] for line in lines for start in range(0, len(line), width)]
    assert Counter(map(tuple, sequences)) == Counter(map(tuple, pieces))


def test_sequences_without_a_maskable_token_are_dropped_and_counted(make, text):
    options = ShardOptions(valid_fraction=0, special_tokens=False, seq_len=8)
    out = make([*text, "漢" * 40, "漢" * 20 + "가" + "漢" * 20], options=options)
    unmaskable = set(Tokenizer.load(out / "train" / "tokenizer.json").unmaskable_ids)
    assert all(set(ids) - unmaskable for ids in read_sequences(out / "train"))
    index = ShardSet.open(out / "train").index
    # A word mark and 40 unknown characters are 6 pieces, of which the last 5 are unknown
    # characters only. The second line has 4 such pieces.
    assert index.dropped == {"sequences without a maskable token": 5 + 4}
    assert index.lines == len(text) + 2
    assert index.characters == sum(map(len, text)) + 40 + 41


def test_lines_without_a_token_are_dropped_and_counted(make, text, tmp_path, tokenizer_path):
    """A tokenizer may reduce a line to nothing, or to unknown tokens."""
    content = json.loads(tokenizer_path.read_text())
    strip = {"type": "Replace", "pattern": {"String": "-"}, "content": ""}
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], strip]}
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (tmp_path / "t.json").write_text(json.dumps(content))
    out = make([*text, "--", "漢"], tokenizer=tmp_path / "t.json")
    counts = json.loads((out / "made.json").read_text())["counts"]
    assert counts["lines"] == len(text) + 2
    assert counts["lines kept"] == len(text)
    assert counts["lines dropped whole"] == 2


def test_dirty_text_is_sharded_and_counted(tmp_path, corpus, tokenizer_path):
    source = corpus / "dirty.txt"
    options = ShardOptions(special_tokens=False)
    make_shards(str(source), tokenizer_path, tmp_path / "out", options, 1)
    counts = json.loads((tmp_path / "out" / "made.json").read_text())["counts"]
    indexes = [ShardSet.open(tmp_path / "out" / split).index for split in ("train", "valid")]
    assert counts["lines"] == len(source.read_bytes().split(b"\n"))
    assert counts["lines"] == (
        sum(index.lines for index in indexes)
        + counts["blank lines"]
        + counts["duplicate lines"]
        + counts.get("lines dropped whole", 0)
    )
    for name in ("lines with invalid UTF-8", "NUL characters", "byte order marks", "lines not NFC"):
        assert counts[name] > 0
    for split in ("train", "valid"):
        assert faults_of(tmp_path / "out" / split) == []
        special_ids = {0, 2, 3, 4}
        sequences = read_sequences(tmp_path / "out" / split)
        assert not any(special_ids & set(ids) for ids in sequences)
