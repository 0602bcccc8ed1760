"""Of an input with splits or configurations, only what is meant for training is read."""

from pathlib import PurePath

import pytest

from data_prep.readers.sources import Inputs, open_sources
from data_prep.readers.splits import split_of
from data_prep.readers.text import read_chunks
from tests.data_prep.readers.rejection import error_message
from tests.helpers.dataset_files import write_mds

datasets = pytest.importorskip("datasets")
pytest.importorskip("pyarrow")
datasets.disable_progress_bars()
CARD = """---
configs:
- config_name: ko
  data_files:
  - {split: train, path: "ko/a-*.parquet"}
  - {split: test, path: ["ko/b.parquet"]}
- config_name: %s
  data_files: "en/*.parquet"
---
# A dataset
"""


@pytest.fixture
def write(tmp_path):
    """Writes parquet files, each with its own path as text, and returns their directory."""

    def files(*names):
        for name in names:
            path = tmp_path / "hub" / name
            datasets.Dataset.from_dict({"text": [name]}).to_parquet(path)
        return tmp_path / "hub"

    return files


def texts(tmp_path, **inputs):
    with open_sources(Inputs(**inputs), tmp_path) as sources:
        chunks = [chunk for source in sources for chunk, _ in read_chunks(source)]
    return sorted(b"".join(chunks).decode().splitlines())


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("wikitext-dev.parquet", "validation"),
        ("en/partial-train/0000.parquet", "train"),
        ("eval_2.parquet", "test"),
        ("data/unsupervised-00000-of-00001.parquet", "unsupervised"),
        ("data/contest.parquet", ""),
        ("data/trainers.parquet", ""),
        ("2013/0000.parquet", ""),
    ],
)
def test_the_split_that_a_path_names(path, split):
    assert split_of(PurePath(path)) == split


def test_a_snapshot_gives_its_split_for_training_and_says_so(write, tmp_path, capsys):
    names = [f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")]
    hub = write(*names)
    assert texts(tmp_path, from_hf=str(hub)) == names[:1]
    printed = capsys.readouterr().err
    assert f"{hub}: reading the split train; not read: test, validation" in printed
    assert texts(tmp_path, input=f"{hub}/data/v*.parquet") == names[1:2]


def test_a_snapshot_without_splits_is_read_whole(write, tmp_path, capsys):
    names = ["2013/0.parquet", "2014/0.parquet"]
    assert texts(tmp_path, from_hf=str(write(*names))) == names
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("names", [["test.parquet"], ["dev/0.parquet", "x/0.parquet"]])
def test_splits_without_one_for_training_are_an_error(write, tmp_path, capsys, names):
    hub = write(*names)
    error = error_message(tmp_path, capsys, f"--from_hf={hub}")
    assert f"{hub} has no split train, it has " in error
    assert f"name what to read, as in --input '{hub}/{names[0]}'" in error


def test_the_default_configuration_is_read(write, tmp_path, capsys):
    hub = write("ko/a-0.parquet", "ko/b.parquet", "en/0.parquet", "en/1.parquet")
    (hub / "README.md").write_text(CARD % "default")
    assert texts(tmp_path, from_hf=str(hub)) == ["en/0.parquet", "en/1.parquet"]
    assert "reading the default configuration; not read: ko" in capsys.readouterr().err


def test_configurations_without_a_default_are_an_error(write, tmp_path, capsys):
    hub = write("ko/a-00000-of-00009.parquet", "ko/b.parquet", "en/0.parquet")
    (hub / "README.md").write_text(CARD % "en")
    error = error_message(tmp_path, capsys, f"--from_hf={hub}")
    assert "has the configurations ko, en and no default: name what to read" in error
    assert f"--input '{hub}/ko/a-*.parquet'" in error


def test_the_only_configuration_is_read_with_its_splits(write, tmp_path, capsys):
    hub = write("ko/a-0.parquet", "ko/b.parquet")
    (hub / "README.md").write_text(CARD % "en")
    assert texts(tmp_path, from_hf=str(hub)) == ["ko/a-0.parquet"]
    assert "reading the split train; not read: test" in capsys.readouterr().err


@pytest.mark.parametrize(
    "data", ["data_dir: en", "{data_dir: /en/, data_files: '*.parquet'}", "data_files: 'en/**'"]
)
def test_a_configuration_may_be_a_directory(write, tmp_path, capsys, data):
    hub = write("en/x/train-0.parquet", "en/train-1.parquet", "en/test-0.parquet", "ko/0.parquet")
    entry = data if data.startswith("{") else f"{{{data}}}"
    entries = [entry[:-1] + ", config_name: default}", "{config_name: ko, data_dir: ko}"]
    (hub / "README.md").write_text(f"---\nconfigs: [{', '.join(entries)}]\n---\n")
    files = ["en/train-1.parquet", "en/x/train-0.parquet"]
    assert texts(tmp_path, from_hf=str(hub)) == files[: 1 if "*.parquet" in data else 2]
    assert "reading the default configuration; not read: ko" in capsys.readouterr().err
    (hub / "README.md").write_text(f"---\nconfigs: [{entries[1]}, {entries[1]}]\n---\n")
    assert texts(tmp_path, from_hf=str(hub)) == ["ko/0.parquet"]


def test_an_invalid_card_is_an_error(write, tmp_path, capsys):
    hub = write("a.parquet")
    (hub / "README.md").write_text("---\nconfigs: [\n---\n")
    assert "README.md has an invalid header" in error_message(tmp_path, capsys, f"--from_hf={hub}")


def test_a_dataset_dict_gives_its_split_for_training(tmp_path, capsys):
    rows = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("test", "train")}
    datasets.DatasetDict(rows).save_to_disk(tmp_path / "hf")
    assert texts(tmp_path, from_hf=f"{tmp_path}/hf") == ["train"]
    assert "hf: reading the split train; not read: test" in capsys.readouterr().err
    assert texts(tmp_path, from_hf=f"{tmp_path}/hf/test") == ["test"]
    datasets.DatasetDict(test=rows["test"]).save_to_disk(tmp_path / "hf2")
    error = error_message(tmp_path, capsys, f"--from_hf={tmp_path}/hf2")
    assert (
        f"has no split train, it has test: name what to read, as in --from_hf {tmp_path}" in error
    )


def test_mds_directories_of_splits(tmp_path, capsys):
    for name in ("train", "val"):
        write_mds(tmp_path / "mds" / name, [{"text": name.encode()}], {"text": "str"})
    assert texts(tmp_path, from_mds=f"{tmp_path}/mds") == ["train"]
    assert "mds: reading the split train; not read: val" in capsys.readouterr().err
    (tmp_path / "mds/train").rename(tmp_path / "mds/dev")
    error = error_message(tmp_path, capsys, f"--from_mds={tmp_path}/mds")
    assert (
        f"has no split train, it has dev, val: name what to read, as in --from_mds {tmp_path}"
        in (error)
    )


def test_a_glob_that_matches_held_out_files_is_a_warning(tmp_path, capsys):
    for name in ("wiki.train.txt", "wiki.valid.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    assert len(texts(tmp_path, input=f"{tmp_path}/wiki.*")) == 2
    printed = capsys.readouterr().err
    assert "also matches 1 files that are not meant for training by their names" in printed
    assert "(wiki.valid.txt)" in printed
    assert texts(tmp_path, input=f"{tmp_path}/wiki.v*") == ["wiki.valid.txt"]
    assert capsys.readouterr().err == ""
