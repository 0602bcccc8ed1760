"""Hugging Face datasets that are damaged or not as expected are rejected with an error message."""

import random
import sys

import pytest

from data_prep.readers.sources import Inputs, open_sources
from data_prep.readers.text import read_chunks
from tests.data_prep.readers.rejection import change_file, error_message
from tests.helpers.dataset_files import write_mds

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
datasets.disable_progress_bars()
TEXTS = [f"{number} words of a document" for number in range(50)]


def save_dataset(path, **columns):
    datasets.Dataset.from_dict(columns or {"text": TEXTS}).save_to_disk(path)
    return path


@pytest.mark.parametrize("flag", ["from_hf", "from_mds"])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gone", "gone, which is not an existing directory"),
        ("file", "file, which is not an existing directory"),
        ("empty", "which has no "),
        ("empty,gone", "gone, which is not an existing directory"),
        ("s3://bucket/x", "names the URL s3://"),
    ],
)
def test_missing_datasets(tmp_path, capsys, monkeypatch, flag, spec, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    assert message in error_message(tmp_path, capsys, f"--{flag}={spec}")


@pytest.mark.parametrize("form", ["arrow", "parquet"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": TEXTS, "id": [0] * 50}, "has no column 'text', it has body, id"),
        ({"text": [1] * 50}, "the column 'text' has the type int64, expected text"),
        ({"text": [[each] for each in TEXTS]}, "has the type list<"),
        ({"text": [each.encode() for each in TEXTS]}, "has the type binary"),
    ],
)
def test_wrong_columns(tmp_path, capsys, form, columns, message):
    if form == "arrow":
        save_dataset(tmp_path / "hf", **columns)
    else:
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "hf" / "a.parquet")
    error = error_message(tmp_path, capsys, f"--from_hf={tmp_path}/hf")
    assert message in error
    assert "--column" in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.json", "{", "state.json is not JSON"),
        ("state.json", "[]", "is not a JSON object"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow is missing"),
        ("state.json", '{"_data_files": [{"filename": "../x"}]}', "not in the same directory"),
        ("state.json", '{"_data_files": [{}]}', "names None"),
        ("state.json", '{"_indices_data_files": [{"filename": "i"}]}', "save it again"),
        ("dataset_dict.json", "{}", "names no splits"),
        ("dataset_dict.json", '{"splits": ["train"]}', "train/state.json is missing"),
        ("dataset_dict.json", '{"splits": [".."]}', "not in the same directory"),
    ],
)
def test_damaged_dataset_directories(tmp_path, capsys, name, content, message):
    save_dataset(tmp_path / "hf")
    (tmp_path / "hf" / name).write_text(content)
    assert message in error_message(tmp_path, capsys, f"--from_hf={tmp_path}/hf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "truncated (the end of the Arrow stream is missing)"),
        (lambda content: content[:-8], "the end of the Arrow stream is missing"),
        (lambda content: content[:100], "is not a valid arrow file"),
        (lambda _: b"", "is not a valid arrow file"),
        (lambda content: b"x" * len(content), "is not a valid arrow file"),
        (lambda content: content.replace(b"text", b"te\xfft"), "can't decode byte 0xff"),
    ],
    ids=["one-byte-less", "no-end", "truncated", "empty", "other-bytes", "invalid-utf-8"],
)
def test_damaged_arrow_files(tmp_path, capsys, change, message):
    save_dataset(tmp_path / "hf")
    (path,) = (tmp_path / "hf").glob("*.arrow")
    change_file(path, change)
    error = error_message(tmp_path, capsys, f"--from_hf={tmp_path}/hf")
    assert str(path) in error
    assert message in error


@pytest.mark.parametrize("form", ["arrow", "arrow-file", "parquet", "mds"])
def test_random_damage_gives_text_or_an_error_with_the_path(tmp_path, form):
    """Offsets of a damaged file are never followed outside of it."""
    if form == "arrow":
        (path,) = save_dataset(tmp_path / "x").glob("*.arrow")
    elif form == "arrow-file":
        path = tmp_path / "x" / "a.feather"
        path.parent.mkdir()
        feather.write_feather(pa.table({"text": pa.array(TEXTS, pa.string_view())}), path)
    elif form == "parquet":
        path = tmp_path / "x" / "a.parquet"
        datasets.Dataset.from_dict({"text": TEXTS}).to_parquet(path)
    else:
        samples = [{"text": text.encode()} for text in TEXTS]
        path = write_mds(tmp_path / "x", samples, {"text": "str"}) / "shard.00000.mds"
    content, generator = path.read_bytes(), random.Random(form)
    flag, spec = ("from_mds" if form == "mds" else "from_hf"), f"{tmp_path}/x"
    if form == "arrow-file":
        flag, spec = "input", str(path)
    num_read = num_errors = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 4))):
            damaged[generator.randrange(len(content))] = generator.choice((0, 1, 127, 255))
        path.write_bytes(damaged)
        try:
            with open_sources(Inputs(**{flag: spec}), tmp_path) as (source,):
                sum(len(chunk) for chunk, _ in read_chunks(source))
            num_read += 1
        except ValueError as error:
            assert str(path) in str(error)
            num_errors += 1
    assert num_read
    assert num_errors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.parquet.gz", "decompress it first"),
        ("a.parquet", "is not a valid parquet file"),
    ],
)
def test_parquet_files_that_are_none(tmp_path, capsys, name, message):
    (tmp_path / name).write_bytes(b"text")
    assert message in error_message(tmp_path, capsys, f"--input={tmp_path}/{name}")


def test_missing_pyarrow(tmp_path, capsys, monkeypatch):
    save_dataset(tmp_path / "hf")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    error = error_message(tmp_path, capsys, f"--from_hf={tmp_path}/hf")
    assert "pip install 'bertds[migrate]'" in error
