"""MDS datasets that are damaged or not as expected are rejected with an error message."""

import hashlib
import json
import pickle

import pytest
import zstandard

from data_prep.readers.sources import Inputs, open_sources
from data_prep.readers.text import read_chunks
from tests.data_prep.readers.rejection import change_file, error_message
from tests.helpers.dataset_files import COLUMN_SIZES, write_mds

TEXTS = [f"{number} words of a document" for number in range(50)]
FILE = {"basename": "shard.00000.mds", "bytes": 1}


def write_texts(path, **encodings):
    encodings = encodings or {"text": "str"}
    samples = [{name: text.encode() for name in encodings} for text in TEXTS]
    return write_mds(path, samples, encodings)


def set_in_index(content, **values):
    """The index with other values for its first shard."""
    index = json.loads(content)
    index["shards"][0] |= values
    return json.dumps(index).encode()


@pytest.mark.parametrize(
    ("encodings", "message"),
    [
        ({"body": "str", "z": "int"}, "has no column 'text', it has body, z"),
        ({"text": "bytes"}, "is encoded as bytes, expected str"),
        ({"text": "json"}, "is encoded as json, expected str"),
        ({"text": "pkl"}, "pickles are never loaded"),
    ],
)
def test_wrong_columns(tmp_path, capsys, encodings, message):
    write_texts(tmp_path / "mds", **encodings)
    assert message in error_message(tmp_path, capsys, f"--from_mds={tmp_path}/mds")


class _Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_pickles_in_other_columns_are_skipped(tmp_path):
    samples = [{"text": text.encode(), "trap": pickle.dumps(_Trap())} for text in TEXTS]
    write_mds(tmp_path / "mds", samples, {"text": "str", "trap": "pkl"})
    with open_sources(Inputs(from_mds=f"{tmp_path}/mds"), tmp_path) as (source,):
        content = b"".join(chunk for chunk, _ in read_chunks(source))
    assert content.decode().split("\n") == [*TEXTS, ""]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"{", "is not an index of MDS shards"),
        (lambda _: b'{"shards": 3}', "is not an index of MDS shards (shards: "),
        (lambda _: b'{"shards": [{"format": "mds"}]}', "is not an index of MDS shards (samples: "),
        (lambda c: set_in_index(c, format="json"), "the format 'json', expected 'mds'"),
        (lambda c: set_in_index(c, samples=-1), "(samples: Input should be greater"),
        (lambda c: set_in_index(c, samples=49), "does not have the 49 samples of the index"),
        (lambda c: set_in_index(c, samples=10**12), "does not have the 1,000,000,000,000 samples"),
        (lambda c: set_in_index(c, column_sizes=[]), "columns without a name, encoding or size"),
        (lambda c: set_in_index(c, column_sizes=[7]), "differs from the sum of its columns"),
        (lambda c: set_in_index(c, raw_data=FILE), "the index says 1)"),
        (
            lambda c: set_in_index(c, raw_data=FILE | {"basename": "../x"}),
            "'../x', which is outside",
        ),
        (lambda c: set_in_index(c, raw_data=FILE | {"basename": "/x"}), "'/x', which is outside"),
        (lambda c: set_in_index(c, raw_data=FILE | {"basename": "gone"}), "gone is missing"),
    ],
)
def test_damaged_indexes(tmp_path, capsys, change, message):
    change_file(write_texts(tmp_path / "mds") / "index.json", change)
    assert message in error_message(tmp_path, capsys, f"--from_mds={tmp_path}/mds")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "is damaged or truncated (it has"),
        (lambda content: content[:-1] + b"\xff", "its sha256 differs"),
    ],
)
def test_damaged_shards(tmp_path, capsys, change, message):
    directory = write_texts(tmp_path / "mds")
    shard = directory / "shard.00000.mds"
    content = shard.read_bytes()
    hashes = {"sha256": hashlib.sha256(content).hexdigest(), "xxh64": "5"}
    file = FILE | {"bytes": len(content), "hashes": hashes}
    change_file(directory / "index.json", lambda index: set_in_index(index, raw_data=file))
    with open_sources(Inputs(from_mds=str(directory)), tmp_path) as sources:
        assert len(sources) == 1
    change_file(shard, change)
    error = error_message(tmp_path, capsys, f"--from_mds={directory}")
    assert message in error
    assert str(shard) in error


@pytest.mark.parametrize(
    ("compress", "message"),
    [
        (lambda raw: zstandard.compress(raw[:-5]), "it ends 5 bytes early"),
        (lambda raw: zstandard.compress(raw + bytes(9 << 20)), "has more than the"),
        (lambda raw: zstandard.compress(b"\xff" * len(raw)), "does not have the 50 samples"),
        (lambda _: b"no zstandard", "is damaged or truncated ("),
    ],
)
def test_damaged_compressed_shards(tmp_path, capsys, compress, message):
    directory = write_texts(tmp_path / "mds")
    raw = (directory / "shard.00000.mds").read_bytes()
    (directory / "shard.00000.mds").unlink()
    (directory / "p.zstd").write_bytes(compress(raw))
    file = {"basename": "p.zstd", "bytes": len(compress(raw))}
    change_file(
        directory / "index.json",
        lambda index: set_in_index(index, zip_data=file, compression="zstd:3"),
    )
    assert message in error_message(tmp_path, capsys, f"--from_mds={directory}")


def test_an_unsupported_compression(tmp_path, capsys):
    directory = write_texts(tmp_path / "mds")
    (directory / "shard.00000.mds").rename(directory / "p.br")
    file = {"basename": "p.br", "bytes": 1}
    change_file(
        directory / "index.json",
        lambda index: set_in_index(index, zip_data=file, compression="br:3"),
    )
    error = error_message(tmp_path, capsys, f"--from_mds={directory}")
    assert "compressed with 'br', expected zstd or gz" in error


def test_a_shard_without_its_index(tmp_path, capsys):
    (tmp_path / "shard.00000.mds").write_bytes(b"text")
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/shard.00000.mds")
    assert "name their directory with --from_mds" in error


def test_column_sizes_are_those_of_the_format():
    encodings = pytest.importorskip("streaming.base.format.mds.encodings")
    for name, size in COLUMN_SIZES.items():
        assert encodings.get_mds_encoded_size(name) == size
