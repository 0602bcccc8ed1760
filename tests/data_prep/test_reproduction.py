"""`record`: every vocabulary and set that the cases name, from one training of merges."""

import json

import pytest

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from data_prep import reproduction as record_module
from data_prep.reproduction import make_record, table
from data_prep.train_tokenizer import make_tokenizer
from tests.helpers.shard_verify import faults_of

MERGES = [400, 200, 50]


@pytest.fixture
def texts(tmp_path, lines):
    for name in ("ko", "en"):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines[name]))
    return str(tmp_path / "ko.txt"), str(tmp_path / "en.txt")


def test_the_tree_of_sets(tmp_path, texts):
    out = tmp_path / "data"
    sets = make_record(*texts, out, MERGES, 1)
    wanted = ["400/ko", "400/en", "200/en", "50/en"]
    names = [f"{name}/{split}" for name in wanted for split in ("train", "valid")]
    assert [each.name for each in sets] == names
    assert sorted(str(path.parent.relative_to(out)) for path in out.rglob("index.json")) == sorted(
        names
    )
    for name in names:
        assert faults_of(out / name) == []
        index = ShardSet.open(out / name).index
        assert (index.seq_len, index.special_tokens) == (256, False)
    lines = {each.name: each.index.lines for each in sets}
    assert lines["400/ko/train"] + lines["400/ko/valid"] == 400
    assert len({lines[f"{merges}/en/valid"] for merges in MERGES}) == 1


def test_vocabularies_are_joint_and_as_if_made_alone(tmp_path, texts):
    out = tmp_path / "data"
    make_record(*texts, out, MERGES, 1)
    for merges in MERGES:
        alone = tmp_path / f"{merges}.json"
        make_tokenizer(",".join(texts), merges, alone, True, 5)
        assert (out / str(merges) / "tokenizer.json").read_bytes() == alone.read_bytes()
        tokenizer = Tokenizer.load(alone)
        assert tokenizer.tokens(tokenizer.encode_batch(["BA"])[0])[0].startswith("▁b")
        set_dir = out / str(merges) / "en" / "train"
        assert ShardSet.open(set_dir).index.tokenizer == tokenizer.fingerprint


def test_names_of_vocabularies():
    names = [record_module.vocabulary_name(count) for count in (50_000, 5000, 1200)]
    assert names == ["50k", "5k", "1200"]


def test_the_table(tmp_path, texts):
    sets = make_record(*texts, tmp_path / "data", [50], 1)
    rows = table(sets).split("\n")
    assert rows[0].split() == [
        "set",
        "sentences",
        "tokens",
        "mean",
        "length",
        "bytes",
        "a",
        "token",
    ]
    for each, row in zip(sets, rows[1:], strict=True):
        name, sentences, tokens, mean, size = row.replace(",", "").split()
        assert (name, int(sentences), int(tokens)) == (
            each.name,
            each.index.lines,
            each.index.tokens,
        )
        assert float(mean) == pytest.approx(each.index.tokens / each.index.lines, abs=0.006)
        stored = sum(path.stat().st_size for path in (tmp_path / "data" / name).glob("*.tar"))
        assert float(size) == pytest.approx(stored / each.index.tokens, abs=0.0006)


def test_a_second_call_does_nothing_and_an_interrupted_one_continues(tmp_path, texts, monkeypatch):
    out = tmp_path / "data"
    make_record(*texts, out, MERGES, 1)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    make_record(*texts, out, MERGES, 1)
    again = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert again == stamps

    def stop(*_):
        raise KeyboardInterrupt

    other = tmp_path / "other"
    for module, name in ((record_module.train_tokenizer, "write"), (record_module, "make_shards")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, stop)
            make_record(*texts, other, MERGES, 1)
    make_record(*texts, other, MERGES, 1)
    for path in stamps:
        assert (other / path.relative_to(out)).read_bytes() == path.read_bytes()


def test_other_text_in_the_way_is_refused(tmp_path, texts):
    make_record(*texts, tmp_path / "data", MERGES, 1)
    with pytest.raises(FileExistsError, match="is there already, made of other text"):
        make_record(texts[1], texts[0] + "," + texts[1], tmp_path / "data", [300], 1)
    with (tmp_path / "en.txt").open("a") as file:
        file.write("\none more line")
    with pytest.raises(FileExistsError, match="is there already, made of other text"):
        make_record(*texts, tmp_path / "data", MERGES, 1)


def test_too_few_merges_write_nothing(tmp_path, texts):
    with pytest.raises(ValueError, match="merges, 50,000 are wanted"):
        make_record(*texts, tmp_path / "data", [50_000, 100], 1)
    assert list((tmp_path / "data").rglob("*")) == []


@pytest.mark.slow
def test_real_text(tmp_path, corpus):
    tiny = corpus / "tiny"
    sets = make_record(f"{tiny}/ko.txt", f"{tiny}/en.txt", tmp_path / "data", [8000, 5000], 2)
    assert {each.name.split("/")[0] for each in sets} == {"8k", "5k"}
    for each in sets:
        assert faults_of(tmp_path / "data" / each.name) == []
        if each.name.endswith("train"):
            assert each.index.bytes_per_token < 2.3
    made = json.loads((tmp_path / "data" / "8k" / "ko" / "made.json").read_text())
    assert made["counts"] == {"lines": 2000, "lines kept": 2000}
