"""Small shard sets in tests: read all of one, damage it, or make a damaged one consistent again."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bertds.data.shards.format import INDEX_NAME
from bertds.data.shards.reader import ShardSet

SHAPE: dict[str, Any] = {"set_key": 7, "block_sequences": [4, 16], "num_shards": 5}
"""Arguments of the fixture `write_shards`: for 95 sequences, 10 blocks in 5 shards."""


def all_rows(shards: ShardSet) -> list[list[int]]:
    rows = []
    for number in range(shards.num_blocks):
        block = shards.read_block(number)
        ends = np.cumsum(block.lengths.astype(int))[:-1]
        rows += [row.tolist() for row in np.split(block.tokens, ends)]
    return rows


def edit_index(directory: Path, **changes: Any) -> None:
    """Replace values of `index.json`."""
    path = directory / INDEX_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_shard_entry(directory: Path, number: int, **changes: Any) -> None:
    """Replace values in a shard's entry of `index.json`."""
    shards = json.loads((directory / INDEX_NAME).read_text())["shards"]
    shards[number] |= changes
    edit_index(directory, shards=shards)


def replace_shard(directory: Path, content: bytes) -> None:
    """Replace the bytes of the first shard, and its hash in the index."""
    shard = directory / "shard-000000.tar"
    assert len(content) == shard.stat().st_size
    shard.write_bytes(content)
    edit_shard_entry(directory, 0, sha256=hashlib.sha256(content).hexdigest())


class Evil:
    """Makes a directory when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def object_array() -> bytes:
    """Encode a `.npy` file that needs pickle."""
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    return stream.getvalue()
