"""Verifies shard sets."""

from pathlib import Path

from tqdm import tqdm

from bertds.data.shards.reader import ShardSet
from bertds.data.shards.verify import verify_frame, verify_shard
from bertds.errors import ShardError


def _sets_below(directory: Path) -> list[Path]:
    """The sets in a directory: itself, or those that have an index or shards below it."""
    found = {path.parent for name in ("index.json", "*.tar") for path in directory.rglob(name)}
    if not found:
        raise ShardError(f"{directory} has no shard set in it: the --out of `shard` is wanted")
    return sorted(found)


def _faults(directory: Path) -> list[str]:
    try:
        shards = ShardSet.open(directory)
    except ShardError as error:
        return [str(error)]
    faults = verify_frame(shards)
    for number in tqdm(range(len(shards.index.shards)), desc=str(directory), disable=None):
        faults += verify_shard(shards, number)
    return faults
