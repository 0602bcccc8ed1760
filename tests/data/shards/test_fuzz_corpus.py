"""What the fuzzer of the readers has found, and a few thousand inputs more: `fuzz_readers.py`."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.shards.fuzz_readers import Readers

FINDINGS = Path(__file__).with_name("fuzz_corpus.txt")


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return Readers(tmp_path_factory.mktemp("sets"))


def test_what_was_found_is_refused_or_holds(readers: Readers) -> None:
    """One input a line, in hex: those that failed once, and a minimal set for all that is reached."""
    for line in FINDINGS.read_text().splitlines():
        readers.one_input(bytes.fromhex(line))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_edit_is_refused_or_holds(data: bytes, readers: Readers) -> None:
    readers.one_input(data)
