"""Runs the tasks on a Dask cluster instead of local processes; `pip install 'bertds[cluster]'`.

    dask scheduler                                            on one host
    dask worker tcp://HOST:8786 --nworkers 32 --nthreads 1    on each host
    python -m data_prep shard --scheduler tcp://HOST:8786 ...

If a worker dies, Dask gives its tasks to another worker. A task that kills three workers in a row
ends the run. Workers read the text and write parts and shards themselves, so all of them must see
the input, the work directory and the output.
"""

import concurrent.futures
import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from bertds.errors import LostWorkersError

_CONNECT_TIMEOUT_S = 60  # for the scheduler, then for the first worker


@contextlib.contextmanager
def cluster_executor(scheduler: str, shared: Path) -> Iterator[tuple[Executor, int]]:
    """An executor of a Dask cluster, and the number of tasks that it runs at once.

    Args:
        scheduler: Address of the scheduler, such as `tcp://10.0.0.1:8786`.
        shared: An existing directory that all workers must be able to write to.

    Raises:
        LostWorkersError: The scheduler or its workers cannot be reached, or a task killed workers.
        ValueError: Dask is not installed, or the workers lack this program or the directory.
    """
    try:
        import distributed  # an optional dependency
    except ImportError as error:
        raise ValueError(
            f"--scheduler needs Dask, which is not installed ({error}): run pip install "
            "'bertds[cluster]'"
        ) from error
    with (
        _translate_cluster_errors(distributed, scheduler),
        _connect(distributed, scheduler) as client,
    ):
        _check_workers(client, shared)
        with client.get_executor() as pool:
            try:
                yield pool, max(1, sum(client.nthreads().values()))
            finally:
                pool.shutdown(wait=False)  # the results of unfinished tasks are not needed


@contextlib.contextmanager
def _connect(distributed: Any, scheduler: str) -> Iterator[Any]:
    """A client of a scheduler that has at least one worker."""
    if "://" not in scheduler:
        raise ValueError(
            f"--scheduler is {scheduler!r}, expected an address such as tcp://10.0.0.1:8786"
        )
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except OSError as error:
        raise LostWorkersError(
            f"no Dask scheduler answers at {scheduler}: start `dask scheduler`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_TIMEOUT_S)
        except TimeoutError as error:
            raise LostWorkersError(
                f"the Dask scheduler at {scheduler} has no worker: start `dask worker {scheduler} "
                "--nworkers N --nthreads 1` on the hosts"
            ) from error
        yield client


@contextlib.contextmanager
def _translate_cluster_errors(distributed: Any, scheduler: str) -> Iterator[None]:
    """Raise failures of the cluster as errors that tell the user what to do."""
    try:
        yield
    except distributed.scheduler.KilledWorker as error:
        raise LostWorkersError(
            "several Dask workers died while running the same task, possibly because they ran out "
            "of memory: run the same command again to resume; fewer workers per host leave more "
            "memory for each"
        ) from error
    except concurrent.futures.CancelledError as error:
        raise LostWorkersError(
            f"the connection to the Dask scheduler at {scheduler} was lost: restart the scheduler "
            "and its workers, then run the same command again to resume"
        ) from error


def _check_workers(client: Any, shared: Path) -> None:
    """Check that all workers have this program and share the directory."""
    marker = shared / f"seen-{uuid.uuid4().hex}"
    marker.touch()
    try:
        answers = client.run(_shares_directory, marker)
    except ImportError as error:
        raise ValueError(
            f"the Dask workers cannot import this program ({error}): install the same version of "
            "bertds on their hosts"
        ) from error
    finally:
        marker.unlink()
    failed = sorted(worker for worker, shares in answers.items() if not shares)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(answers)} Dask workers ({failed[0]}, ...) cannot write to "
            f"{shared}: set --scratch or --out to a directory that all hosts share"
        )


def _shares_directory(marker: Path) -> bool:
    """Whether this worker sees a file of the client and can write next to it."""
    own_file = marker.with_name(f"{marker.name}-{uuid.uuid4().hex}")
    try:
        own_file.touch()
        own_file.unlink()
    except OSError:
        return False
    return marker.exists()
