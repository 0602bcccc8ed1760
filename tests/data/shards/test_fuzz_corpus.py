"""The inputs that the fuzzer of the readers has found, and random ones: see `fuzz_readers.py`."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.shards.fuzz_readers import Readers

CORPUS = Path(__file__).with_name("fuzz_corpus.txt")


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return Readers(tmp_path_factory.mktemp("sets"))


def test_an_input_of_the_corpus_is_rejected_or_valid(readers: Readers) -> None:
    """One input per line, in hex: past failures, and a minimal set that reaches all code."""
    for line in CORPUS.read_text().splitlines():
        readers.one_input(bytes.fromhex(line))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_a_random_input_is_rejected_or_valid(data: bytes, readers: Readers) -> None:
    readers.one_input(data)
