"""What the hosts of a run must have in common: its directory, and the same shards.

Each process reads the shards through its own host's files, copies perhaps, and takes from them how
many steps there are. Where these differ, processes would train on other batches than they say, or
wait for one another at the end; so all compare before anything else.
"""

import contextlib
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from bertds.checkpoint.saver import VISIBLE_WITHIN_S, becomes_visible
from bertds.data.dataset import DatasetSubset
from bertds.engine.process_group import all_gather_object
from bertds.errors import ConfigError
from bertds.train.setup import RunSetup

Sets = dict[str, tuple[str, int, list[int]]]
"""By use and name: key, sequences that are used, shards that are missing or cut."""


def check_hosts(run: RunSetup) -> None:
    """Compare what all processes see of a run; all must call it, when its directory is there.

    Raises:
        ConfigError: In all alike: one does not see process 0's directory, or has other shards.
    """
    if run.world.world_size == 1:
        return
    with _mark(run) as mark:
        seen = all_gather_object((socket.gethostname(), becomes_visible(mark), _sets(run)))
    first_host, _, first = seen[0]
    for rank, (host, is_visible, sets) in enumerate(seen):
        if not is_visible:
            raise ConfigError(
                f"process {rank} on {host} does not see within {VISIBLE_WITHIN_S} s what process 0 "
                f"on {first_host} writes to {run.run_dir}: --out must be on a file system that all "
                "hosts share"
            )
        if other := next((name for name in first if sets[name] != first[name]), None):
            raise ConfigError(
                f"{other} is another set on {host} ({_told(sets[other])}) than on {first_host} "
                f"({_told(first[other])}): copy it there anew, or let --data be a directory that all "
                "hosts share, or a URL"
            )


@contextlib.contextmanager
def _mark(run: RunSetup) -> Iterator[Path]:
    """A name in the run's directory that nobody can have seen before; process 0 makes it."""
    (name, *_) = all_gather_object(f".seen-{uuid.uuid4().hex}")
    mark = run.run_dir / name
    if run.world.is_main:
        mark.touch()
    try:
        yield mark
    finally:
        if run.world.is_main:
            mark.unlink(missing_ok=True)


def _sets(run: RunSetup) -> Sets:
    found = {f"the training set {part.name}": _facts(part) for part in run.train}
    valid = {f"the validation set {name}": _facts(one.part) for name, one in run.valid.items()}
    return found | valid


def _facts(part: DatasetSubset) -> tuple[str, int, list[int]]:
    shards = part.shards
    return shards.index.set_key, part.num_sequences, sorted(shards.bad_shards)


def _told(facts: tuple[str, int, list[int]]) -> str:
    key, sequences, bad = facts
    damaged = f", shards {', '.join(map(str, bad))} damaged" if bad else ""
    return f"{sequences:,} sequences, key {key}{damaged}"
