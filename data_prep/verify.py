"""Finds shard sets and verifies every byte of them."""

from pathlib import Path

from tqdm import tqdm

from bertds.data.shards.reader import ShardSet
from bertds.data.shards.verify import verify_frame, verify_shard
from bertds.errors import ShardError
from data_prep.output.manifest import MANIFEST_NAME, read_recipe


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
    may_be_joined = _may_be_joined(directory)
    for number in tqdm(range(len(shards.index.shards)), desc=str(directory), disable=None):
        faults += verify_shard(shards, number, may_be_joined=may_be_joined)
    return faults


def _may_be_joined(directory: Path) -> bool:
    """Whether sequences may hold several documents: only the manifest beside the set tells."""
    recipe = read_recipe(directory.absolute().parent / MANIFEST_NAME)
    options = None if recipe is None else recipe.get("options")
    return not isinstance(options, dict) or options.get("join") != "none"
