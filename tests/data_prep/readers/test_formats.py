"""Datasets of other programs give exactly the shards of the same text as JSON lines."""

import csv
import gzip
import json
import random

import pytest
import webdataset
import zstandard

from bertds.cli import run
from data_prep.__main__ import COMMANDS
from data_prep.readers import cleaning
from data_prep.readers import text as text_module
from data_prep.readers.sources import Inputs, open_sources
from data_prep.readers.text import read_chunks
from tests.helpers.dataset_files import write_mds

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")
pc = pytest.importorskip("pyarrow.compute")
datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def documents(lines):
    """Some with several lines, some empty, some that cleaning changes, and a duplicate."""
    texts = [*lines["ko"], *lines["en"]]
    for number in range(0, len(texts), 7):
        texts[number] = texts[number].replace(" ", "\n")
    dirty = ["", "a\r\n\r\nb\tc\n", "nul\0 and \ufeffmark", "e\u0301 \u2028 x", "\n \n"]
    return [*texts, *dirty, texts[0]]


@pytest.fixture(scope="module")
def directory(documents, tmp_path_factory):
    """`text.jsonl`, its tokenizer, and its shards in `out`."""
    path = tmp_path_factory.mktemp("text")
    content = "\n".join(json.dumps({"text": text}) for text in documents)
    (path / "text.jsonl").write_text(content)
    assert run_tokenizer(path / "tokenizer.json", f"--input={path}/text.jsonl") == 0
    assert run_shard(path, path / "out", f"--input={path}/text.jsonl") == 0
    return path


def run_tokenizer(path, *flags):
    return run("data_prep", COMMANDS, ["tokenizer", "--merges=200", "--lowercase", "--min_count=1",
                                       f"--out={path}", *flags])  # fmt: skip


def run_shard(directory, out, *flags, workers=1):
    return run("data_prep", COMMANDS, ["shard", f"--tokenizer={directory}/tokenizer.json",
                                       f"--out={out}", f"--workers={workers}", *flags])  # fmt: skip


def bytes_of(out):
    """All files but the manifest, which names the sources."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "made.json"
    }


def saved_dataset(path, documents):
    rows = datasets.Dataset.from_dict({"id": [*range(len(documents))], "text": documents})
    rows.shuffle(seed=1).save_to_disk(path / "hf", num_shards=3)
    return [f"--from_hf={path}/hf"]


def saved_dict(path, documents):
    half = len(documents) // 2
    datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"body": documents[:half]}),
        test=datasets.Dataset.from_dict({"body": documents[half:]}),
    ).save_to_disk(path / "hf")
    return [f"--from_hf={path}/hf/train,{path}/hf/test", "--column=body"]


def parquet_snapshot(path, documents):
    """Like a snapshot of the Hub: nested, with links to files elsewhere, and with other files."""
    (path / "blobs").mkdir()
    (path / "hf/data/en").mkdir(parents=True)
    (path / "hf/README.md").write_text("a card")
    (path / "hf/.cache").mkdir()
    (path / "hf/.cache/x.parquet").write_text("half a download")
    for number, chosen in enumerate((documents[:100], documents[100:])):
        rows = datasets.Dataset.from_dict({"text": chosen})
        rows.to_parquet(path / f"blobs/{number}", batch_size=64)
        (path / f"hf/data/en/{number}.parquet").symlink_to(path / f"blobs/{number}")
    return [f"--from_hf={path}/hf"]


def other_columns(path, documents):
    """Large strings, dictionaries, and a parquet file by name."""
    table = pa.table({"text": pa.array(documents[:300], pa.large_string())})
    parquet.write_table(table, path / "a.parquet", compression="zstd")
    table = pa.table({"text": pa.array(documents[300:]).dictionary_encode()})
    with (
        pa.OSFile(str(path / "b.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    return [f"--input={path}/a.parquet,{path}/b.arrow"]


def arrow_files(path, documents):
    """Arrow files, also compressed and with the text types of Polars, and such a stream."""
    texts = pa.array(documents, pa.string_view())
    for name, array in (("a.arrow", texts[:200]), ("b.feather", pa.array(documents[200:400]))):
        table = pa.table({"id": [*range(len(array))], "text": array})
        feather.write_feather(table, path / name, compression="lz4", chunksize=64)
    for name, array in (
        ("c.arrow", texts[400:600].dictionary_encode()),
        ("d", texts[600:700]),
        ("e.arrow", pc.run_end_encode(pa.array(documents[700:]))),
    ):
        table = pa.table({"text": array})
        with pa.ipc.new_stream(path / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=64)
    return [f"--input={path}/[a-e]*"]


def mds(path, documents, compression=None):
    columns = {"blob": "bytes", "id": "int", "text": "str", "z": "pkl"}
    samples = [
        {"blob": b"\x80\n" * (i % 5), "id": bytes(8), "text": text.encode(), "z": b"\x80\x04."}
        for i, text in enumerate(documents)
    ]
    write_mds(path / "mds", samples, columns, compression)
    return [f"--from_mds={path}/mds"]


def mds_zstd(path, documents):
    return mds(path, documents, "zstd:3")


def mds_gz(path, documents):
    return mds(path, documents, "gz")


def written_by_streaming(path, documents):
    """Written by MDSWriter, if it is installed; its dependencies are too large to require."""
    streaming = pytest.importorskip("streaming")
    columns = {"id": "int", "text": "str", "meta": "json", "z": "pkl"}
    with streaming.MDSWriter(
        out=str(path / "mds"), columns=columns, compression="zstd:7", hashes=["sha256"],
        size_limit=20_000,
    ) as writer:  # fmt: skip
        for number, text in enumerate(documents):
            writer.write({"id": number, "text": text, "meta": {"a": [1]}, "z": {"b"}})
    return [f"--from_mds={path}/mds"]


def webdataset_texts(path, documents):
    for number, name in enumerate(("a.tar", "b.tgz")):
        with webdataset.TarWriter(str(path / name)) as writer:
            for index in range(number, len(documents), 2):
                writer.write({"__key__": f"{index:08d}", "json": {"text": "no"}, "npy": b"",
                              "txt": documents[index]})  # fmt: skip
    return [f"--input={path}/*.t*"]


def webdataset_json(path, documents):
    with webdataset.TarWriter(str(path / "a.tar")) as writer:
        for index, text in enumerate(documents):
            writer.write({"__key__": f"deep/{index:08d}", "json": {"body": text, "id": index}})
    content = (path / "a.tar").read_bytes()
    (path / "a.tar").unlink()
    (path / "a.tar.zst").write_bytes(zstandard.compress(content))
    return [f"--input={path}/a.tar.zst", "--column=body"]


def json_lines(path, documents):
    content = "\n".join(json.dumps({"body": text, "text": 5}) for text in documents).encode()
    (path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    return [f"--input={path}/a.jsonl.gz", "--column", "body"]


def json_array(path, documents):
    """An array of one record per line, one on a single line, and records over several lines."""
    rows = [{"id": number, "text": text} for number, text in enumerate(documents)]
    lines = ",\n".join(json.dumps(row) for row in rows[:300])
    (path / "a.json").write_text(f"[\n{lines}\n]\n")
    (path / "b.json.gz").write_bytes(gzip.compress(json.dumps(rows[300:600]).encode()))
    (path / "c.jsonl").write_text("\n".join(json.dumps(row, indent=2) for row in rows[600:]))
    return [f"--input={path}/*.json*"]


def tables(path, documents):
    """Quoted texts with delimiters and line ends, and a form of Excel's for German users."""
    with (path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "text"), *enumerate(documents[:300])])
    with gzip.open(path / "b.tsv.gz", "wt", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([("text", "label"), *((text, 0) for text in documents[300:600])])
    with (path / "c.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "label"), *((text, 0) for text in documents[600:])])
    return [f"--input={path}/*.?sv*"]


def other_encodings(path, documents):
    """Encodings that have every character; those with a mark need no option."""
    records = [json.dumps({"text": text}, ensure_ascii=False) for text in documents]
    (path / "a.jsonl").write_text("\n".join(records[:300]), encoding="gb18030")
    content = "\n".join(records[300:500]).encode("utf-16")
    (path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    (path / "c.json").write_text(f"[{','.join(records[500:600])}]", encoding="utf-32")
    (path / "d.jsonl").write_text("\n".join(records[600:]), encoding="utf-8")
    return [f"--input={path}/*.json*", "--encoding=GB18030"]


def without_endings(path, documents):
    """JSON lines and a parquet file, known by their content; and gzip."""
    records = [json.dumps({"text": text}) for text in documents[:500]]
    (path / "wiki_00").write_text("\n".join(records[:200]))
    (path / "wiki_01").write_bytes(gzip.compress("\n".join(records[200:400]).encode()))
    (path / "wiki_02.txt").write_text(f"[{','.join(records[400:])}]")
    datasets.Dataset.from_dict({"text": documents[500:]}).to_parquet(path / "wiki_03.txt")
    return [f"--input={path}/wiki_*"]


def some_of_each(path, documents):
    random.Random(1).shuffle(documents)
    (path / "rest.jsonl").write_text("\n".join(json.dumps({"text": x}) for x in documents[500:]))
    return [
        *mds_zstd(path, documents[:200]),
        *saved_dataset(path, documents[200:500]),
        f"--input={path}/rest.jsonl",
    ]


KINDS = [
    saved_dataset, saved_dict, parquet_snapshot, other_columns, arrow_files, mds, mds_zstd, mds_gz,
    written_by_streaming, webdataset_texts, webdataset_json, json_lines, json_array, tables, other_encodings, without_endings,
    some_of_each,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_shards_equal_those_of_json_lines(directory, documents, tmp_path, monkeypatch, kind):
    flags = kind(tmp_path, list(documents))
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 3000)
    assert run_shard(directory, tmp_path / "out", *flags) == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")
    assert run_tokenizer(tmp_path / "t.json", *flags) == 0
    assert (tmp_path / "t.json").read_bytes() == (directory / "tokenizer.json").read_bytes()


@pytest.mark.dist
def test_shards_of_two_workers_equal_those_of_one(directory, documents, tmp_path):
    """The main process reads containers and sends the chunks to the workers."""
    flags = mds_zstd(tmp_path, list(documents))
    assert run_shard(directory, tmp_path / "out", *flags, workers=2) == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")


@pytest.mark.parametrize("kind", [saved_dataset, parquet_snapshot, mds_zstd, webdataset_texts])
def test_a_moved_dataset_is_recognized_by_its_content(directory, documents, tmp_path, capsys, kind):
    flags = kind(tmp_path, list(documents))
    assert run_shard(directory, tmp_path / "out", *flags) == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in [*tmp_path.iterdir()]:
        if path.name not in ("out", "elsewhere", "blobs"):
            path.rename(moved / path.name)
    flags = [flag.replace(str(tmp_path), str(moved)) for flag in flags]
    capsys.readouterr()
    assert run_shard(directory, tmp_path / "out", *flags) == 0
    assert "already finished" in capsys.readouterr().out


def test_another_column_is_another_source(tmp_path, documents):
    rows = {"text": documents, "body": documents}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "hf")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "body": "b"}')
    samples = [{"body": text.encode(), "text": text.encode()} for text in documents]
    write_mds(tmp_path / "mds", samples, {"body": "str", "text": "str"}, per_shard=10**6)
    named = {"from_hf": f"{tmp_path}/hf", "from_mds": f"{tmp_path}/mds"}
    identities = []
    for column in ("text", "body"):
        inputs = Inputs(input=f"{tmp_path}/a.jsonl", column=column, **named)
        with open_sources(inputs, tmp_path) as sources:
            identities.append({source.identity for source in sources})
    assert len(identities[0]) == 3
    assert not identities[0] & identities[1]


@pytest.mark.parametrize("kind", [saved_dataset, parquet_snapshot, mds_gz, webdataset_texts])
def test_chunks_are_whole_documents_for_any_read_size(tmp_path, monkeypatch, kind):
    documents = [f"{i} " + "가나다 " * (7 * i % 90) for i in range(200)]
    (first, *_) = kind(tmp_path, documents)
    flag, _, spec = first.lstrip("-").partition("=")
    chunk_lists = []
    for piece_bytes in (1, 1 << 20):
        monkeypatch.setattr(cleaning, "CHUNK_BYTES", 1500)
        monkeypatch.setattr(text_module, "_PIECE_BYTES", piece_bytes)
        with open_sources(Inputs(**{flag: spec}), tmp_path) as sources:
            chunks = [chunk for source in sources for chunk, _ in read_chunks(source)]
        assert all(chunk.endswith(b"\n") for chunk in chunks)
        assert max(map(len, chunks)) <= 1500
        chunk_lists.append(chunks)
    assert chunk_lists[0] == chunk_lists[1]
    assert sorted(b"".join(chunk_lists[0]).decode().splitlines()) == sorted(documents)


def with_nulls(path, documents):
    datasets.Dataset.from_dict({"text": [*documents, None, None]}).save_to_disk(path / "hf")
    return [f"--from_hf={path}/hf"]


def with_members_without_text(path, documents):
    with webdataset.TarWriter(str(path / "a.tar")) as writer:
        for index, text in enumerate([*documents, None, 5]):
            writer.write({"__key__": f"{index:08d}", "json": {"text": text}})
    return [f"--input={path}/a.tar"]


def rows_without_text(path, documents):
    (path / "a.json").write_text(json.dumps([{"text": text} for text in [*documents, None, 5]]))
    return [f"--input={path}/a.json"]


@pytest.mark.parametrize("kind", [with_nulls, with_members_without_text, rows_without_text])
def test_records_without_a_text_are_dropped_and_counted(directory, tmp_path, documents, kind):
    assert run_shard(directory, tmp_path / "out", *kind(tmp_path, documents)) == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")
    before, after = (
        json.loads((out / "made.json").read_text())["counts"]
        for out in (directory / "out", tmp_path / "out")
    )
    names = ("lines", "lines kept", "blank lines", "duplicate lines", "records without a text")
    changes = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    changed = {name: change for name, change in changes.items() if change}
    assert changed == {"lines": 2, "records without a text": 2}


def test_parquet_files_and_tars_behind_urls(directory, documents, tmp_path):
    rows = datasets.Dataset.from_dict({"text": documents[:300]})
    rows.to_parquet(tmp_path / "a.parquet")
    with webdataset.TarWriter(str(tmp_path / "b.tar")) as writer:
        for index, text in enumerate(documents[300:]):
            writer.write({"__key__": f"{index:08d}", "txt": text})
    spec = f"file://{tmp_path}/a.parquet,file://{tmp_path}/b.tar"
    assert run_shard(directory, tmp_path / "out", f"--input={spec}") == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")


def test_a_merged_mds_index(directory, documents, tmp_path):
    """`merge_index` of MosaicML Streaming writes file names in subdirectories."""
    shards = []
    for name, chosen in (("a", documents[:300]), ("b", documents[300:])):
        samples = [{"text": text.encode()} for text in chosen]
        index = (
            write_mds(tmp_path / "mds" / name, samples, {"text": "str"}, "zstd:3") / "index.json"
        )
        for shard in json.loads(index.read_text())["shards"]:
            for file in (shard["raw_data"], shard["zip_data"]):
                file["basename"] = f"{name}/{file['basename']}"
            shards.append(shard)
        index.unlink()
    (tmp_path / "mds/index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    assert run_shard(directory, tmp_path / "out", f"--from_mds={tmp_path}/mds") == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")
