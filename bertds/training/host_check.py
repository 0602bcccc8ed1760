"""Checks that all hosts see the same run directory and the same shards.

Each rank reads the shards of its own host, possibly copies, and derives the number of steps from
them. If they differ, ranks would train on different batches, or wait for one another at the end. So
all ranks compare what they see before anything else.
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
from bertds.training.run_setup import RunSetup

DatasetView = tuple[str, int, list[int]]
"""Key of a dataset, its sequences in use, and its shards that are missing or truncated."""


def check_hosts(run: RunSetup) -> None:
    """Compare what all ranks see of a run; all must call it, after its directory is made.

    Raises:
        ConfigError: On all ranks alike: one does not see rank 0's directory, or has other shards.
    """
    if run.world.world_size == 1:
        return
    datasets = {name: view for each in (run, *run.later) for name, view in _datasets(each).items()}
    with _marker_file(run) as marker:
        views = all_gather_object((socket.gethostname(), becomes_visible(marker), datasets))
    first_host, _, first = views[0]
    for rank, (host, is_visible, seen) in enumerate(views):
        if not is_visible:
            raise ConfigError(
                f"rank {rank} on {host} does not see within {VISIBLE_WITHIN_S} s what rank 0 on "
                f"{first_host} writes to {run.run_dir}: --out must be on a file system that all "
                "hosts share"
            )
        if differing := next((name for name in first if seen[name] != first[name]), None):
            raise ConfigError(
                f"{differing} differs between {host} ({_describe(seen[differing])}) and "
                f"{first_host} ({_describe(first[differing])}): copy it there again, or let --data "
                "be a directory that all hosts share, or a URL"
            )


@contextlib.contextmanager
def _marker_file(run: RunSetup) -> Iterator[Path]:
    """A new name in the run's directory; rank 0 makes the file."""
    (name, *_) = all_gather_object(f".seen-{uuid.uuid4().hex}")
    marker = run.run_dir / name
    if run.world.is_main:
        marker.touch()
    try:
        yield marker
    finally:
        if run.world.is_main:
            marker.unlink(missing_ok=True)


def _datasets(run: RunSetup) -> dict[str, DatasetView]:
    def view(subset: DatasetSubset) -> DatasetView:
        return subset.set_key, subset.num_sequences, sorted(subset.shards.bad_shards)

    of_stage = f" of stage {run.case.stage}" if run.case.stage else ""
    train = {f"the training set {each.name}{of_stage}": view(each) for each in run.train}
    valid = {
        f"the validation set {name}{of_stage}": view(one.subset) for name, one in run.valid.items()
    }
    return train | valid


def _describe(view: DatasetView) -> str:
    key, sequences, bad = view
    damaged = f", shards {', '.join(map(str, bad))} damaged" if bad else ""
    return f"{sequences:,} sequences, key {key}{damaged}"
