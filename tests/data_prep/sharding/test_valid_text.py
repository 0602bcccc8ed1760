"""A validation text of the user's own: `OUT/valid` holds it, and `OUT/train` none of its lines."""

import json

import pytest

from bertds.cli import run
from bertds.data.shards.reader import ShardSet
from data_prep.__main__ import COMMANDS
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from tests.data_prep.sharding.shard_contents import read_files, read_splits, read_texts
from tests.helpers.shard_verify import faults_of

NO_FRACTION = ShardOptions(special_tokens=False, valid_fraction=0, shard_bytes=1)


@pytest.fixture
def make_both(tmp_path, tokenizer_path):
    """Makes shards of training and validation lines."""

    def shards(train, valid, name="out", options=NO_FRACTION, workers=1):
        for split, lines in (("train", train), ("valid", valid)):
            (tmp_path / f"{name}.{split}.txt").write_text("\n".join(lines))
        make_shards(
            f"{tmp_path}/{name}.train.txt", tokenizer_path, tmp_path / name, options, workers,
            valid=f"{tmp_path}/{name}.valid.txt",
        )  # fmt: skip
        return tmp_path / name

    return shards


def assert_same_sequences(one, other):
    """The same sequences in the same order."""
    assert read_texts(one) == read_texts(other)
    assert ShardSet.open(one).index.set_key == ShardSet.open(other).index.set_key


@pytest.mark.usefixtures("small_pieces")
def test_the_sets_are_those_of_each_text_alone(make_both, make, text):
    out = make_both(text[100:], text[:100])
    assert sorted(read_texts(out / "valid")) == sorted(line.lower() for line in text[:100])
    assert faults_of(out / "train") == faults_of(out / "valid") == []
    alone = make(text[100:], "alone", NO_FRACTION)
    assert_same_sequences(out / "train", alone / "train")


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("seq_len", [8, 256])  # 8 cuts lines into several sequences
def test_training_lines_that_are_in_the_validation_text_are_dropped(
    make_both, make, text, dedup, seq_len
):
    valid = [line.upper() for line in text[:50]] + text[40:60] * 2
    options = ShardOptions(
        special_tokens=False, valid_fraction=0, shard_bytes=1, dedup=dedup, seq_len=seq_len
    )
    out = make_both([*text, *text[:20], *text[100:110]], valid, options=options)
    clean = make([*text[60:], *text[100:110]], "clean", options)
    assert_same_sequences(out / "train", clean / "train")
    dropped = ShardSet.open(out / "train").index.dropped
    assert dropped["lines of the validation text"] == 60 + 20
    counts = json.loads((out / "made.json").read_text())["counts"]
    assert counts["lines of the validation text"] == 80
    assert counts["lines"] == counts["lines kept"] + 80 + counts.get("duplicate lines", 0)


def test_bytes_do_not_depend_on_the_order_of_files_or_workers(make_both, text):
    first = make_both(text[100:], text[:150], "a")
    second = make_both(text[:99:-1], text[149::-1], "b", workers=2)
    assert read_splits(first) == read_splits(second)
    manifest = json.loads((first / "made.json").read_text())
    assert len(manifest["recipe"]["valid_sources"]) == 1


def test_another_validation_text_is_another_output(make_both, text):
    out = make_both(text[100:], text[:100])
    before = read_files(out)
    with pytest.raises(FileExistsError, match="made from other text"):
        make_both(text[100:], text[:99])
    assert read_files(out) == before


def test_an_empty_validation_text_is_an_error_and_leaves_nothing(make_both, text, tmp_path):
    with pytest.raises(ValueError, match=r"out/valid gets no sequence; .* another --valid or"):
        make_both(text, [" ", " "])
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_all_validation_text_says_so(make_both, text, tmp_path):
    with pytest.raises(
        ValueError, match="all 100 lines of the text are in the validation text too"
    ):
        make_both(text[:100], text)
    assert not (tmp_path / "out").exists()


def test_the_flags_exclude_each_other(tmp_path, tokenizer_path, text, capsys):
    (tmp_path / "a.txt").write_text("\n".join(text))
    flags = [f"--input={tmp_path}/a.txt", f"--tokenizer={tokenizer_path}", f"--out={tmp_path}/out",
             f"--valid={tmp_path}/a.txt", "--valid_fraction=0.2"]  # fmt: skip
    assert run("data_prep", COMMANDS, ["shard", *flags]) == 2
    assert "--valid_fraction 0.2 exclude each other" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
