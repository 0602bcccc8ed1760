"""Corpora of other programs: the shards are, byte for byte, those of the same text as JSON lines."""

import gzip
import json
import random

import pytest
import webdataset
import zstandard

from bertds.cli import run
from data_prep.__main__ import COMMANDS
from data_prep.readers import cleaning
from data_prep.readers import text as sources_module
from data_prep.readers.sources import Inputs, open_sources
from data_prep.readers.text import read_chunks
from tests.helpers.dataset_files import write_mds

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def documents(lines):
    """Some of several lines, some empty, some with what cleaning takes out, two alike."""
    made = [*lines["ko"], *lines["en"]]
    for number in range(0, len(made), 7):
        made[number] = made[number].replace(" ", "\n")
    dirty = ["", "a\r\n\r\nb\tc\n", "nul\0 and \ufeffmark", "e\u0301 \u2028 x", "\n \n", made[0]]
    return [*made, *dirty]


@pytest.fixture(scope="module")
def directory(documents, tmp_path_factory):
    """`text.jsonl`, its tokenizer, and `out`, the shards of it."""
    made = tmp_path_factory.mktemp("text")
    content = "\n".join(json.dumps({"text": text}) for text in documents)
    (made / "text.jsonl").write_text(content)
    assert tokenizer_of(made / "tokenizer.json", f"--input={made}/text.jsonl") == 0
    assert shards_of(made, made / "out", f"--input={made}/text.jsonl") == 0
    return made


def tokenizer_of(path, *given):
    return run("data_prep", COMMANDS, ["tokenizer", "--merges=200", "--lowercase", "--min_count=1",
                                       f"--out={path}", *given])  # fmt: skip


def shards_of(directory, out, *given, workers=1):
    return run("data_prep", COMMANDS, ["shard", f"--tokenizer={directory}/tokenizer.json",
                                       f"--out={out}", f"--workers={workers}", *given])  # fmt: skip


def bytes_of(out):
    """All but the note on what it was made from."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "made.json"
    }


def saved_dataset(place, documents):
    rows = datasets.Dataset.from_dict({"id": [*range(len(documents))], "text": documents})
    rows.shuffle(seed=1).save_to_disk(place / "hf", num_shards=3)
    return [f"--from_hf={place}/hf"]


def saved_dict(place, documents):
    half = len(documents) // 2
    datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"body": documents[:half]}),
        test=datasets.Dataset.from_dict({"body": documents[half:]}),
    ).save_to_disk(place / "hf")
    return [f"--from_hf={place}/hf", "--column=body"]


def parquet_snapshot(place, documents):
    """As the Hub's: some levels deep, links to files elsewhere, other files beside them."""
    (place / "blobs").mkdir()
    (place / "hf/data/en").mkdir(parents=True)
    (place / "hf/README.md").write_text("a card")
    (place / "hf/.cache").mkdir()
    (place / "hf/.cache/x.parquet").write_text("half a download")
    for number, chosen in enumerate((documents[:100], documents[100:])):
        rows = datasets.Dataset.from_dict({"text": chosen})
        rows.to_parquet(place / f"blobs/{number}", batch_size=64)
        (place / f"hf/data/en/{number}.parquet").symlink_to(place / f"blobs/{number}")
    return [f"--from_hf={place}/hf"]


def other_columns(place, documents):
    """Large strings and dictionaries, and parquet by its own name."""
    table = pa.table({"text": pa.array(documents[:300], pa.large_string())})
    parquet.write_table(table, place / "a.parquet", compression="zstd")
    table = pa.table({"text": pa.array(documents[300:]).dictionary_encode()})
    with (
        pa.OSFile(str(place / "b.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    return [f"--input={place}/a.parquet,{place}/b.arrow"]


def mds(place, documents, compression=None):
    columns = {"blob": "bytes", "id": "int", "text": "str", "z": "pkl"}
    samples = [
        {"blob": b"\x80\n" * (i % 5), "id": bytes(8), "text": text.encode(), "z": b"\x80\x04."}
        for i, text in enumerate(documents)
    ]
    write_mds(place / "mds", samples, columns, compression)
    return [f"--from_mds={place}/mds"]


def mds_zstd(place, documents):
    return mds(place, documents, "zstd:3")


def mds_gz(place, documents):
    return mds(place, documents, "gz")


def written_by_streaming(place, documents):
    """MDSWriter itself, where it is installed: it brings too much to ask it of every developer."""
    streaming = pytest.importorskip("streaming")
    columns = {"id": "int", "text": "str", "meta": "json", "z": "pkl"}
    with streaming.MDSWriter(
        out=str(place / "mds"), columns=columns, compression="zstd:7", hashes=["sha256"],
        size_limit=20_000,
    ) as writer:  # fmt: skip
        for number, text in enumerate(documents):
            writer.write({"id": number, "text": text, "meta": {"a": [1]}, "z": {"b"}})
    return [f"--from_mds={place}/mds"]


def webdataset_texts(place, documents):
    for number, name in enumerate(("a.tar", "b.tgz")):
        with webdataset.TarWriter(str(place / name)) as writer:
            for at in range(number, len(documents), 2):
                writer.write({"__key__": f"{at:08d}", "json": {"text": "no"}, "npy": b"",
                              "txt": documents[at]})  # fmt: skip
    return [f"--input={place}/*.t*"]


def webdataset_json(place, documents):
    with webdataset.TarWriter(str(place / "a.tar")) as writer:
        for at, text in enumerate(documents):
            writer.write({"__key__": f"deep/{at:08d}", "json": {"body": text, "id": at}})
    content = (place / "a.tar").read_bytes()
    (place / "a.tar").unlink()
    (place / "a.tar.zst").write_bytes(zstandard.compress(content))
    return [f"--input={place}/a.tar.zst", "--column=body"]


def json_lines(place, documents):
    content = "\n".join(json.dumps({"body": text, "text": 5}) for text in documents).encode()
    (place / "a.jsonl.gz").write_bytes(gzip.compress(content))
    return [f"--input={place}/a.jsonl.gz", "--column", "body"]


def some_of_each(place, documents):
    random.Random(1).shuffle(documents)
    (place / "rest.jsonl").write_text("\n".join(json.dumps({"text": x}) for x in documents[500:]))
    return [
        *mds_zstd(place, documents[:200]),
        *saved_dataset(place, documents[200:500]),
        f"--input={place}/rest.jsonl",
    ]


KINDS = [
    saved_dataset, saved_dict, parquet_snapshot, other_columns, mds, mds_zstd, mds_gz,
    written_by_streaming, webdataset_texts, webdataset_json, json_lines, some_of_each,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_shards_are_those_of_json_lines(directory, documents, tmp_path, monkeypatch, kind):
    given = kind(tmp_path, list(documents))
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 3000)
    assert shards_of(directory, tmp_path / "out", *given) == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")
    assert tokenizer_of(tmp_path / "t.json", *given) == 0
    assert (tmp_path / "t.json").read_bytes() == (directory / "tokenizer.json").read_bytes()


@pytest.mark.dist
@pytest.mark.parametrize("kind", [saved_dataset, mds_zstd, webdataset_texts])
def test_not_on_the_workers(directory, documents, tmp_path, kind):
    given = kind(tmp_path, list(documents))
    assert shards_of(directory, tmp_path / "out", *given, workers=2) == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")


@pytest.mark.parametrize("kind", [saved_dataset, parquet_snapshot, mds_zstd, webdataset_texts])
def test_a_corpus_is_known_by_its_content(directory, documents, tmp_path, capsys, kind):
    """Under another name it is the same; another column is another text."""
    given = kind(tmp_path, list(documents))
    assert shards_of(directory, tmp_path / "out", *given) == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in [*tmp_path.iterdir()]:
        if path.name not in ("out", "elsewhere", "blobs"):
            path.rename(moved / path.name)
    given = [word.replace(str(tmp_path), str(moved)) for word in given]
    capsys.readouterr()
    assert shards_of(directory, tmp_path / "out", *given) == 0
    assert "finished already" in capsys.readouterr().out


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
def test_chunks_are_whole_documents_and_do_not_depend_on_reads(tmp_path, monkeypatch, kind):
    documents = [f"{i} " + "가나다 " * (7 * i % 90) for i in range(200)]
    (given, *_) = kind(tmp_path, documents)
    flag, _, spec = given.lstrip("-").partition("=")
    found = []
    for piece_bytes in (1, 1 << 20):
        monkeypatch.setattr(cleaning, "CHUNK_BYTES", 1500)
        monkeypatch.setattr(sources_module, "_PIECE_BYTES", piece_bytes)
        with open_sources(Inputs(**{flag: spec}), tmp_path) as sources:
            chunks = [chunk for source in sources for chunk, _ in read_chunks(source)]
        assert all(chunk.endswith(b"\n") for chunk in chunks)
        assert max(map(len, chunks)) <= 1500
        found.append(chunks)
    assert found[0] == found[1]
    assert sorted(b"".join(found[0]).decode().splitlines()) == sorted(documents)


def test_nulls_are_blank_lines(directory, tmp_path, documents):
    datasets.Dataset.from_dict({"text": [*documents, None, None]}).save_to_disk(tmp_path / "hf")
    assert shards_of(directory, tmp_path / "out", f"--from_hf={tmp_path}/hf") == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")
    counts = [json.loads((out / "made.json").read_text())["counts"]
              for out in (directory / "out", tmp_path / "out")]  # fmt: skip
    assert counts[1]["blank lines"] == counts[0]["blank lines"] + 2


def test_one_split_of_many(tmp_path, documents, capsys):
    saved_dict(tmp_path, documents)
    with open_sources(Inputs(from_hf=f"{tmp_path}/hf", column="body"), tmp_path) as sources:
        assert len(sources) == 2
    assert "all splits (train, test)" in capsys.readouterr().err
    with open_sources(Inputs(from_hf=f"{tmp_path}/hf/train", column="body"), tmp_path) as sources:
        assert len(sources) == 1


def test_parquet_and_tars_behind_urls(directory, documents, tmp_path):
    rows = datasets.Dataset.from_dict({"text": documents[:300]})
    rows.to_parquet(tmp_path / "a.parquet")
    with webdataset.TarWriter(str(tmp_path / "b.tar")) as writer:
        for at, text in enumerate(documents[300:]):
            writer.write({"__key__": f"{at:08d}", "txt": text})
    spec = f"file://{tmp_path}/a.parquet,file://{tmp_path}/b.tar"
    assert shards_of(directory, tmp_path / "out", f"--input={spec}") == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")


def test_an_index_over_directories(directory, documents, tmp_path):
    """As `merge_index` writes it: names of files lead into directories below."""
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
    assert shards_of(directory, tmp_path / "out", f"--from_mds={tmp_path}/mds") == 0
    assert bytes_of(tmp_path / "out") == bytes_of(directory / "out")
