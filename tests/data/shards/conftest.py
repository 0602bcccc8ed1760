"""Small shard sets that a test may damage: 95 sequences in 10 blocks and 5 shards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertds.data.shards.format import StoredMasking
from bertds.data.tokenizer import Tokenizer
from tests.data.shards.small_sets import SHAPE


@pytest.fixture(scope="session")
def rows(tokenizer: Tokenizer, lines: dict[str, list[str]]) -> list[list[int]]:
    """The ids of the sequences."""
    return tokenizer.encode_batch(lines["ko"][:95])


@pytest.fixture
def plain(tmp_path: Path, rows: list[list[int]], write_shards: Callable[..., Any]) -> Path:
    """A set without pre-masked copies."""
    write_shards(tmp_path / "plain", rows, **SHAPE)
    return tmp_path / "plain"


@pytest.fixture
def masked(tmp_path: Path, rows: list[list[int]], write_shards: Callable[..., Any]) -> Path:
    """A set with two pre-masked copies."""
    masking = StoredMasking(
        seed=5, ratio=0.15, mask_share=0.8, random_share=0.1, unit="token", copies=2
    )
    write_shards(tmp_path / "masked", rows, masking=masking, **SHAPE)
    return tmp_path / "masked"
