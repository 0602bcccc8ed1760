"""Runs many independent tasks, which are plain functions of picklable arguments, in processes.

A task writes its output atomically and returns little, so any `concurrent.futures.Executor` can
run it. Only a few tasks per worker wait at a time, so memory does not grow with their number.
Workers exit with their parent, however it ends.
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

_WAITING = 2  # tasks per worker that are submitted and not finished
Task = TypeVar("Task")
Result = TypeVar("Result")


def default_workers() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def local_executor(workers: int) -> Iterator[tuple[Executor, int]]:
    """An executor with this number of processes, and that number.

    With one worker, the tasks run in this process.

    Raises:
        LostWorkersError: A worker was killed.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}, expected at least 1")
    if workers == 1:
        _disable_tokenizer_threads()
        yield _InlineExecutor(), 1
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker)
    try:
        yield pool, workers
    except BrokenProcessPool as error:
        raise LostWorkersError(
            "a worker process was killed, possibly because the machine ran out of memory: run the "
            "same command again to resume; fewer --workers need less memory"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def run_tasks(
    pool: Executor, workers: int, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result]]:
    """Run tasks and yield each with its result as it ends; takes from `tasks` as workers are free."""
    waiting: dict[Future[Result], Task] = {}
    for task in tasks:
        waiting[pool.submit(function, task)] = task
        if len(waiting) >= workers * _WAITING:
            yield from _wait_for_some(waiting)
    while waiting:
        yield from _wait_for_some(waiting)


def _wait_for_some(waiting: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    """Wait until a task ends, then remove and yield those that have ended."""
    done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


class _InlineExecutor(Executor):
    """Runs each task when it is submitted, in the calling process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _disable_tokenizer_threads()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _disable_tokenizer_threads() -> None:
    """Keep a worker on one core: threads of the tokenizer would compete with the other workers."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
