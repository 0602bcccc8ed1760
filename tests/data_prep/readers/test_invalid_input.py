"""Corpora that are damaged or not what was meant: one sentence with the file, and nothing is left."""

import json
import pickle
import random
import sys

import pytest
import zstandard

from bertds.cli import run
from data_prep.__main__ import COMMANDS
from data_prep.readers.sources import Inputs, open_sources
from data_prep.readers.text import read_chunks
from tests.helpers.dataset_files import SIZES, write_mds

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
datasets.disable_progress_bars()
TEXTS = [f"{number} words of a document" for number in range(50)]


def refused(tmp_path, capsys, *given):
    """The one sentence, which no traceback and no file goes with."""
    before = sorted(tmp_path.rglob("*"))
    for command in (["tokenizer", "--merges=9", "--min_count=1"], ["shard"]):
        if command == ["shard"]:
            (tmp_path / "tokenizer.json").write_bytes(_tokenizer())
            given = [*given, f"--tokenizer={tmp_path}/tokenizer.json"]
            before = sorted({*before, tmp_path / "tokenizer.json"})
        capsys.readouterr()
        code = run("data_prep", COMMANDS, [*command, f"--out={tmp_path}/new", *given])
        errors = capsys.readouterr().err
        sentences = [line for line in errors.splitlines() if line.startswith("data_prep: ")]
        assert code == 2
        assert len(sentences) == 1
        assert "Traceback" not in errors
        assert sorted(tmp_path.rglob("*")) == before
    return sentences[0]


def _tokenizer():
    import tokenizers

    ids = {
        name: number for number, name in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    }
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=[], unk_token="[UNK]"))
    backend.add_special_tokens([*ids])
    return backend.to_str().encode()


def saved(path, **columns):
    datasets.Dataset.from_dict(columns or {"text": TEXTS}).save_to_disk(path)
    return path


def mds(path, compression=None, **encodings):
    encodings = encodings or {"text": "str"}
    samples = [{name: text.encode() for name in encodings} for text in TEXTS]
    return write_mds(path, samples, encodings, compression)


def test_no_text_is_named(tmp_path, capsys):
    assert "name some with --input, --from_hf or --from_mds" in refused(tmp_path, capsys)


@pytest.mark.parametrize("flag", ["from_hf", "from_mds"])
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gone", "gone, which is no directory that exists"),
        ("file", "file, which is no directory that exists"),
        ("empty", "which has no "),
        ("empty,gone", "gone, which is no directory"),
        ("s3://bucket/x", "names the URL s3://"),
    ],
)
def test_no_corpus_there(tmp_path, capsys, monkeypatch, flag, spec, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    assert words in refused(tmp_path, capsys, f"--{flag}={spec}")


@pytest.mark.parametrize("form", ["arrow", "parquet"])
@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"body": TEXTS, "id": [0] * 50}, "has no column 'text', it has body, id"),
        ({"text": [1] * 50}, "the column 'text' is of int64, wanted is text"),
        ({"text": [[each] for each in TEXTS]}, "is of list<"),
        ({"text": [each.encode() for each in TEXTS]}, "is of binary"),
    ],
)
def test_wrong_columns_of_datasets(tmp_path, capsys, form, columns, words):
    if form == "arrow":
        saved(tmp_path / "hf", **columns)
    else:
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "hf" / "a.parquet")
    sentence = refused(tmp_path, capsys, f"--from_hf={tmp_path}/hf")
    assert words in sentence
    assert "--column" in sentence


@pytest.mark.parametrize(
    ("encodings", "words"),
    [
        ({"body": "str", "z": "int"}, "has no column 'text', its shards have body, z"),
        ({"text": "bytes"}, "is encoded as bytes, wanted is str"),
        ({"text": "json"}, "is encoded as json, wanted is str"),
        ({"text": "pkl"}, "pickles are never loaded"),
    ],
)
def test_wrong_columns_of_mds(tmp_path, capsys, encodings, words):
    mds(tmp_path / "mds", **encodings)
    assert words in refused(tmp_path, capsys, f"--from_mds={tmp_path}/mds")


class _Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_pickles_beside_the_text_are_passed_over(tmp_path):
    samples = [{"text": text.encode(), "trap": pickle.dumps(_Trap())} for text in TEXTS]
    write_mds(tmp_path / "mds", samples, {"text": "str", "trap": "pkl"})
    with open_sources(Inputs(from_mds=f"{tmp_path}/mds"), tmp_path) as (source,):
        assert b"".join(chunk for chunk, _ in read_chunks(source)).decode().split("\n") == [
            *TEXTS,
            "",
        ]


def test_wrong_columns_of_json_lines(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": each}) for each in TEXTS))
    sentence = refused(tmp_path, capsys, f"--input={tmp_path}/a.jsonl")
    assert "none of 50 lines is JSON with a text in its field: --column names the field" in sentence


def alter(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1], "cut off (the end of the Arrow stream is missing)"),
        (lambda content: content[:-8], "the end of the Arrow stream is missing"),
        (lambda content: content[:100], "is no whole arrow file"),
        (lambda _: b"", "is no whole arrow file ("),
        (lambda content: b"x" * len(content), "no whole arrow"),
        (lambda content: content.replace(b"text", b"te\xfft"), "can't decode byte 0xff"),
    ],
)
def test_damaged_arrow(tmp_path, capsys, change, words):
    saved(tmp_path / "hf")
    (path,) = (tmp_path / "hf").glob("*.arrow")
    alter(path, change)
    sentence = refused(tmp_path, capsys, f"--from_hf={tmp_path}/hf")
    assert str(path) in sentence
    assert words in sentence


@pytest.mark.parametrize("form", ["arrow", "parquet", "mds"])
def test_bytes_that_are_altered_raise_nothing_else(tmp_path, form):
    """No offset is followed that leads astray: text or a sentence, never a crash."""
    if form == "arrow":
        (path,) = saved(tmp_path / "x").glob("*.arrow")
    elif form == "parquet":
        path = tmp_path / "x" / "a.parquet"
        datasets.Dataset.from_dict({"text": TEXTS}).to_parquet(path)
    else:
        path = mds(tmp_path / "x") / "shard.00000.mds"
    content, generator = path.read_bytes(), random.Random(form)
    flag = "from_mds" if form == "mds" else "from_hf"
    read = refused = 0
    for _ in range(300):
        altered = bytearray(content)
        for _ in range(generator.choice((1, 1, 4))):
            altered[generator.randrange(len(content))] = generator.choice((0, 1, 127, 255))
        path.write_bytes(altered)
        try:
            with open_sources(Inputs(**{flag: f"{tmp_path}/x"}), tmp_path) as (source,):
                sum(len(chunk) for chunk, _ in read_chunks(source))
            read += 1
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert read
    assert refused


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("state.json", "{", "state.json is damaged or cut off"),
        ("state.json", "[]", "names no data files"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow is missing"),
        ("state.json", '{"_data_files": [{"filename": "../x"}]}', "which is not beside it"),
        ("state.json", '{"_data_files": [{}]}', "names None"),
        ("state.json", '{"_indices_data_files": [{"filename": "i"}]}', "save it again"),
        ("dataset_dict.json", "{}", "names no splits"),
        ("dataset_dict.json", '{"splits": ["train"]}', "train/state.json is missing"),
        ("dataset_dict.json", '{"splits": [".."]}', "which is not beside it"),
    ],
)
def test_damaged_dataset_directories(tmp_path, capsys, name, content, words):
    saved(tmp_path / "hf")
    (tmp_path / "hf" / name).write_text(content)
    assert words in refused(tmp_path, capsys, f"--from_hf={tmp_path}/hf")


def set_in(content, **values):
    index = json.loads(content)
    index["shards"][0] |= values
    return json.dumps(index).encode()


FILE = {"basename": "shard.00000.mds", "bytes": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: b"{", "is no index of MDS shards"),
        (lambda _: b'{"shards": 3}', "is no index of MDS shards (shards: "),
        (lambda _: b'{"shards": [{"format": "mds"}]}', "is no index of MDS shards (samples: "),
        (lambda c: set_in(c, format="json"), "only 'mds' is read"),
        (lambda c: set_in(c, samples=-1), "(samples: Input should be greater"),
        (lambda c: set_in(c, samples=49), "has not the 49 samples of its index"),
        (lambda c: set_in(c, samples=10**12), "has not the 1,000,000,000,000 samples"),
        (lambda c: set_in(c, column_sizes=[]), "columns without a name, encoding or size"),
        (lambda c: set_in(c, column_sizes=[7]), "a sample is not as long as its columns"),
        (lambda c: set_in(c, raw_data=FILE), "its index says 1)"),
        (lambda c: set_in(c, raw_data=FILE | {"basename": "../x"}), "which is not below it"),
        (lambda c: set_in(c, raw_data=FILE | {"basename": "/x"}), "'/x', which is not below it"),
        (lambda c: set_in(c, raw_data=FILE | {"basename": "gone"}), "gone is missing"),
    ],
)
def test_damaged_mds_indexes(tmp_path, capsys, change, words):
    alter(mds(tmp_path / "mds") / "index.json", change)
    assert words in refused(tmp_path, capsys, f"--from_mds={tmp_path}/mds")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1], "is damaged or cut off (it has"),
        (lambda content: content[:-1] + b"\xff", "its sha256 is another"),
    ],
)
def test_damaged_mds_shards(tmp_path, capsys, change, words):
    import hashlib

    directory = mds(tmp_path / "mds")
    shard = directory / "shard.00000.mds"
    content = shard.read_bytes()
    file = FILE | {"bytes": len(content),
                   "hashes": {"sha256": hashlib.sha256(content).hexdigest(), "xxh64": "5"}}  # fmt: skip
    alter(directory / "index.json", lambda index: set_in(index, raw_data=file))
    with open_sources(Inputs(from_mds=str(directory)), tmp_path) as sources:
        assert len(sources) == 1
    alter(shard, change)
    sentence = refused(tmp_path, capsys, f"--from_mds={directory}")
    assert words in sentence
    assert str(shard) in sentence


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda raw: zstandard.compress(raw[:-5]), "it ends 5 bytes early"),
        (lambda raw: zstandard.compress(raw + bytes(9 << 20)), "has more than the"),
        (lambda raw: zstandard.compress(b"\xff" * len(raw)), "has not the 50 samples"),
        (lambda _: b"no zstandard", "is damaged or cut off ("),
    ],
)
def test_packed_mds_shards_that_are_others(tmp_path, capsys, make, words):
    directory = mds(tmp_path / "mds")
    raw = (directory / "shard.00000.mds").read_bytes()
    (directory / "shard.00000.mds").unlink()
    (directory / "p.zstd").write_bytes(make(raw))
    file = {"basename": "p.zstd", "bytes": len(make(raw))}
    alter(directory / "index.json",
          lambda index: set_in(index, zip_data=file, compression="zstd:3"))  # fmt: skip
    assert words in refused(tmp_path, capsys, f"--from_mds={directory}")
    alter(directory / "index.json", lambda index: set_in(index, compression="br:3"))
    assert "compressed with 'br', zstd and gz are read" in refused(
        tmp_path, capsys, f"--from_mds={directory}"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.parquet.gz", "unpack it first"),
        ("shard.00000.mds", "name the directory of both with --from_mds"),
        ("a.parquet", "is no whole parquet file"),
    ],
)
def test_names_that_promise_something_else(tmp_path, capsys, name, words):
    (tmp_path / name).write_bytes(b"text")
    assert words in refused(tmp_path, capsys, f"--input={tmp_path}/{name}")


def test_without_pyarrow(tmp_path, capsys, monkeypatch):
    saved(tmp_path / "hf")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    assert "pip install 'bertds[migrate]'" in refused(tmp_path, capsys, f"--from_hf={tmp_path}/hf")


def test_sizes_are_those_of_the_format():
    encodings = pytest.importorskip("streaming.base.format.mds.encodings")
    for name, size in SIZES.items():
        assert encodings.get_mds_encoded_size(name) == size
