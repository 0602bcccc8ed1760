"""`record`: all vocabularies and shard sets of the reference experiments, from one training."""

import json
from pathlib import Path

import pytest

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from data_prep import reproduction
from data_prep.reproduction import format_table, make_all_sets, vocabulary_name
from data_prep.train_tokenizer import make_tokenizer
from tests.helpers.shard_verify import faults_of

MERGES = [400, 200, 50]


@pytest.fixture(scope="module")
def texts(lines, tmp_path_factory):
    """The files of the Korean and the English text."""
    directory = tmp_path_factory.mktemp("texts")
    for name in ("ko", "en"):
        (directory / f"{name}.txt").write_text("\n".join(lines[name]))
    return str(directory / "ko.txt"), str(directory / "en.txt")


@pytest.fixture(scope="module")
def out(texts, tmp_path_factory):
    """The finished output of an uninterrupted run."""
    directory = tmp_path_factory.mktemp("data")
    make_all_sets(*texts, directory, MERGES, 1)
    return directory


def modification_times(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def test_the_directories_of_the_sets(out, texts):
    sets = make_all_sets(*texts, out, MERGES, 1)
    directories = ["400/ko", "400/en", "200/en", "50/en"]
    names = [f"{name}/{split}" for name in directories for split in ("train", "valid")]
    assert [each.name for each in sets] == names
    indexes = out.rglob("index.json")
    assert sorted(str(path.parent.relative_to(out)) for path in indexes) == sorted(names)
    for name in names:
        assert faults_of(out / name) == []
        index = ShardSet.open(out / name).index
        assert (index.seq_len, index.special_tokens) == (256, False)
    lines = {each.name: each.index.lines for each in sets}
    assert lines["400/ko/train"] + lines["400/ko/valid"] == 400
    assert len({lines[f"{merges}/en/valid"] for merges in MERGES}) == 1


def test_vocabularies_are_joint_and_equal_those_trained_alone(out, texts, tmp_path):
    for merges in MERGES:
        alone = tmp_path / f"{merges}.json"
        make_tokenizer(",".join(texts), merges, alone, True, 5)
        assert (out / str(merges) / "tokenizer.json").read_bytes() == alone.read_bytes()
        tokenizer = Tokenizer.load(alone)
        assert tokenizer.tokens(tokenizer.encode_batch(["BA"])[0])[0].startswith("▁b")
        set_dir = out / str(merges) / "en" / "train"
        assert ShardSet.open(set_dir).index.tokenizer == tokenizer.fingerprint


def test_vocabulary_names():
    assert [vocabulary_name(count) for count in (50_000, 5000, 1200)] == ["50k", "5k", "1200"]


def test_the_table(out, texts):
    sets = make_all_sets(*texts, out, MERGES, 1)
    rows = format_table(sets).split("\n")
    assert " ".join(rows[0].split()) == "set sentences tokens mean length bytes per token"
    for each, row in zip(sets, rows[1:], strict=True):
        name, sentences, tokens, mean, size = row.replace(",", "").split()
        counts = (each.name, each.index.lines, each.index.tokens)
        assert (name, int(sentences), int(tokens)) == counts
        assert float(mean) == pytest.approx(each.index.tokens / each.index.lines, abs=0.006)
        num_bytes = sum(path.stat().st_size for path in (out / name).glob("*.tar"))
        assert float(size) == pytest.approx(num_bytes / each.index.tokens, abs=0.0006)


def test_a_finished_output_is_kept(out, texts):
    times = modification_times(out)
    make_all_sets(*texts, out, MERGES, 1)
    assert modification_times(out) == times


def test_an_interrupted_run_is_resumed(out, texts, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    resumed = tmp_path / "resumed"
    for module, name in ((reproduction.tokenizer_file, "write"), (reproduction, "make_shards")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, stop)
            make_all_sets(*texts, resumed, MERGES, 1)
    make_all_sets(*texts, resumed, MERGES, 1)
    for path in modification_times(out):
        assert (resumed / path.relative_to(out)).read_bytes() == path.read_bytes()


def test_an_output_of_other_text_is_not_overwritten(out, texts, tmp_path):
    times = modification_times(out)
    with pytest.raises(FileExistsError, match="already exists, made from other text"):
        make_all_sets(texts[1], texts[0] + "," + texts[1], out, [300], 1)
    longer = tmp_path / "en.txt"
    longer.write_text(Path(texts[1]).read_text() + "\none more line")
    with pytest.raises(FileExistsError, match="already exists, made from other text"):
        make_all_sets(texts[0], str(longer), out, MERGES, 1)
    assert modification_times(out) == times


def test_too_few_merges_write_nothing(texts, tmp_path):
    with pytest.raises(ValueError, match="merges, 50,000 were requested"):
        make_all_sets(*texts, tmp_path / "data", [50_000, 100], 1)
    assert list((tmp_path / "data").rglob("*")) == []


@pytest.mark.slow
def test_real_text(tmp_path, corpus):
    tiny = corpus / "tiny"
    sets = make_all_sets(f"{tiny}/ko.txt", f"{tiny}/en.txt", tmp_path / "data", [8000, 5000], 2)
    assert {each.name.split("/")[0] for each in sets} == {"8k", "5k"}
    for each in sets:
        assert faults_of(tmp_path / "data" / each.name) == []
        if each.name.endswith("train"):
            assert each.index.bytes_per_token < 2.3
    manifest = json.loads((tmp_path / "data" / "8k" / "ko" / "made.json").read_text())
    assert manifest["counts"] == {"lines": 2000, "lines kept": 2000}
