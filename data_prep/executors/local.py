"""Running many independent tasks: plain functions of picklable arguments, on processes.

A task writes its output under its own name when it is whole and returns little, so the executor
may be any `concurrent.futures.Executor`. At most a few tasks a worker wait at a time, so memory
does not grow with their number. Workers end with their parent, however it ends.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from bertds.errors import LostWorkersError

_WAITING = 2  # tasks handed out for each worker
Task = TypeVar("Task")
Result = TypeVar("Result")


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def executor(workers: int) -> Iterator[Executor]:
    """An executor of so many processes; with one worker, this process itself.

    Raises:
        LostWorkersError: A worker was killed.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}, at least 1 is wanted")
    if workers == 1:
        _one_core()
        yield _Inline()
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise LostWorkersError(
            "a worker process was killed, perhaps for want of memory: the same command continues, "
            "with fewer --workers it needs less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def run_tasks(
    pool: Executor, workers: int, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, as they end; `tasks` is consumed as fast as they are done."""
    waiting: dict[Future[Result], Task] = {}
    for task in tasks:
        waiting[pool.submit(function, task)] = task
        if len(waiting) >= workers * _WAITING:
            yield from _ended(waiting)
    while waiting:
        yield from _ended(waiting)


def _ended(waiting: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


class _Inline(Executor):
    """Runs a task where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    _one_core()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _one_core() -> None:
    """A worker is one core: the tokenizer's own threads would fight the other workers."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
