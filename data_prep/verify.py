"""Finds shard sets and verifies every byte of them."""

from pathlib import Path

from tqdm import tqdm

from bertds.data.shards.reader import ShardSet
from bertds.data.shards.verify import verify_frame, verify_shard
from bertds.errors import ShardError


def find_shard_sets(directory: Path) -> list[Path]:
    """The directories with shards or an index, at any depth: `directory` itself, or those below it.

    Raises:
        ShardError: There are none.
    """
    sets = {path.parent for name in ("index.json", "*.tar") for path in directory.rglob(name)}
    if not sets:
        raise ShardError(f"{directory} has no shard set: expected the --out of `data_prep shard`")
    return sorted(sets)


def verify_shard_set(directory: Path) -> list[str]:
    """The faults of a shard set, one message each."""
    try:
        shards = ShardSet.open(directory)
    except ShardError as error:
        return [str(error)]
    faults = verify_frame(shards)
    for number in tqdm(range(len(shards.index.shards)), desc=str(directory), disable=None):
        faults += verify_shard(shards, number)
    return faults
