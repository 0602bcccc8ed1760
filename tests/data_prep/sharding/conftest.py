"""A text, its tokenizer, and a function that makes shards of lines."""

import pytest

from data_prep.readers import cleaning
from data_prep.sharding import stages
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from data_prep.train_tokenizer import make_tokenizer
from tests.data_prep.sharding.shard_contents import read_splits

SMALL_SHARDS = ShardOptions(special_tokens=False, shard_bytes=1)  # one block per shard


class StoppedError(Exception):
    """Raised by a test to interrupt a run."""


@pytest.fixture(scope="session")
def text(lines):
    """800 different lines."""
    return [*lines["ko"], *lines["en"]]


@pytest.fixture(scope="session")
def tokenizer_path(text, tmp_path_factory):
    """A lower-casing tokenizer whose vocabulary has every character of the text."""
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "text").write_text("\n".join(text))
    path = directory / "tokenizer.json"
    make_tokenizer(str(directory / "text"), 200, path, True, 1)
    return path


@pytest.fixture
def make(tmp_path, tokenizer_path):
    """Makes shards of lines in `tmp_path / name` and returns that directory."""

    def shards(lines, name="out", options=None, workers=1, tokenizer=tokenizer_path):
        source = tmp_path / f"{name}.txt"
        source.write_text("\n".join(lines))
        options = options or ShardOptions(special_tokens=False)
        make_shards(str(source), tokenizer, tmp_path / name, options, workers)
        return tmp_path / name

    return shards


@pytest.fixture(scope="session")
def expected_splits(text, tokenizer_path, tmp_path_factory):
    """The bytes that an uninterrupted run with `SMALL_SHARDS` on one core writes."""
    directory = tmp_path_factory.mktemp("expected")
    (directory / "text").write_text("\n".join(text))
    make_shards(str(directory / "text"), tokenizer_path, directory / "out", SMALL_SHARDS, 1)
    return read_splits(directory / "out")


@pytest.fixture
def small_pieces(monkeypatch):
    """Makes many chunks and groups of a small text."""
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 4000)
    monkeypatch.setattr(stages, "GROUP_BYTES", 2000)
