"""The tasks on a Dask cluster instead of processes of this machine; `pip install 'bertds[cluster]'`.

    dask scheduler                                        on one host
    dask worker tcp://HOST:8786 --nworkers 32 --nthreads 1    on each host
    python -m data_prep shard --scheduler tcp://HOST:8786 …

A worker that dies costs the tasks it was at, which Dask gives to another one; a task that three
workers in a row did not survive ends the run. Workers read the text and write parts and shards
themselves, so the input, the unfinished work and the output must be where all of them see it.
"""

import concurrent.futures
import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from bertds.errors import LostWorkersError

_PATIENCE_S = 60  # for the scheduler and the first worker


@contextlib.contextmanager
def cluster_executor(scheduler: str, shared: Path) -> Iterator[tuple[Executor, int]]:
    """An executor of a Dask cluster, and how many tasks it runs at once.

    Args:
        scheduler: Its address, such as `tcp://10.0.0.1:8786`.
        shared: An existing directory that all workers must see and write.

    Raises:
        LostWorkersError: There is no such scheduler, or no worker, or a task killed its workers.
        ValueError: Dask is not installed, or the workers lack this program or the directory.
    """
    try:
        import distributed  # an extra
    except ImportError as error:
        raise ValueError(
            f"--scheduler needs Dask, which is not installed ({error}): pip install "
            "'bertds[cluster]'"
        ) from error
    with _sentences(distributed, scheduler), _connected(distributed, scheduler) as client:
        _check_workers(client, shared)
        with client.get_executor() as pool:
            try:
                yield pool, max(1, sum(client.nthreads().values()))
            finally:
                pool.shutdown(wait=False)  # whatever is left has no use any more


@contextlib.contextmanager
def _connected(distributed: Any, scheduler: str) -> Iterator[Any]:
    """A client of a scheduler that has workers."""
    if "://" not in scheduler:
        raise ValueError(f"--scheduler is {scheduler!r}, wanted is an address: tcp://10.0.0.1:8786")
    try:
        client = distributed.Client(scheduler, timeout=_PATIENCE_S, set_as_default=False)
    except OSError as error:
        raise LostWorkersError(
            f"no Dask scheduler answers at {scheduler}: start `dask scheduler`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE_S)
        except TimeoutError as error:
            raise LostWorkersError(
                f"the Dask scheduler at {scheduler} has no worker: start `dask worker {scheduler} "
                "--nworkers N --nthreads 1` on the hosts"
            ) from error
        yield client


@contextlib.contextmanager
def _sentences(distributed: Any, scheduler: str) -> Iterator[None]:
    """Around the use of the cluster: its faults in words."""
    try:
        yield
    except distributed.scheduler.KilledWorker as error:
        raise LostWorkersError(
            "a task was given to one worker after the other and none survived it, perhaps for want "
            "of memory: the same command continues, with fewer workers a host each has more"
        ) from error
    except concurrent.futures.CancelledError as error:
        raise LostWorkersError(
            f"the Dask scheduler at {scheduler} was lost: start it and its workers again, then the "
            "same command continues"
        ) from error


def _check_workers(client: Any, shared: Path) -> None:
    token = shared / f"seen-{uuid.uuid4().hex}"
    token.touch()
    try:
        answers = client.run(_shares, token)
    except ImportError as error:
        raise ValueError(
            f"the Dask workers cannot import this program ({error}): install the same version of "
            "bertds where they run"
        ) from error
    finally:
        token.unlink()
    blind = sorted(worker for worker, sees in answers.items() if not sees)
    if blind:
        raise ValueError(
            f"{len(blind)} of {len(answers)} Dask workers ({blind[0]}, …) cannot write in {shared}: "
            "name a directory that all hosts share, by --scratch or --out"
        )


def _shares(token: Path) -> bool:
    """Whether this worker sees a file of the client and may write beside it."""
    mine = token.with_name(f"{token.name}-{uuid.uuid4().hex}")
    try:
        mine.touch()
        mine.unlink()
    except OSError:
        return False
    return token.exists()
