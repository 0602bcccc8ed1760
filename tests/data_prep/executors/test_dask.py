"""Shards from a real local Dask cluster equal those of one process, even if workers die."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertds.errors import LostWorkersError
from data_prep.executors.dask import cluster_executor
from data_prep.executors.local import run_tasks
from data_prep.readers import cleaning
from data_prep.sharding import stages
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from data_prep.train_tokenizer import make_tokenizer

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = ShardOptions(special_tokens=False, shard_bytes=1)  # one block per shard
DASK = [sys.executable, "-m", "dask"]


class Cluster:
    """A scheduler and workers, each in its own process; all are killed when the context ends."""

    def __init__(self, directory):
        self.directory = directory
        self._stack = contextlib.ExitStack()
        self.scheduler = self._start("scheduler", "--port=0", "--no-dashboard")
        self.address = self._wait(r"Scheduler at:\s+(tcp://127\.0\.0\.1:\d+)", "scheduler")
        self.workers = {}

    def add_worker(self, name, *arguments):
        self.workers[name] = self._start(
            "worker", self.address, f"--name={name}", "--no-nanny", "--no-dashboard",
            "--nworkers=1", *arguments, log=name,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _start(self, program, *arguments, log=None):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.directory / f"{log or program}.log").open("wb") as output:
            process = subprocess.Popen(
                [*DASK, program, "--host=127.0.0.1", *arguments],
                stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=self.directory,
            )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _wait(self, pattern, log):
        deadline = time.monotonic() + 300
        path = self.directory / f"{log}.log"
        while not (match := re.search(pattern, path.read_text())):
            assert time.monotonic() < deadline, path.read_text()
            time.sleep(0.05)
        return match[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster with the workers `a`, which a test kills, and `b`, which has two threads."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        started.add_worker("a", "--nthreads=1")
        started.add_worker("b", "--nthreads=2")
        yield started


@pytest.fixture(scope="module")
def directory(lines, tmp_path_factory):
    """Text in two files, and a tokenizer."""
    path = tmp_path_factory.mktemp("text")
    for name, texts in lines.items():
        (path / f"{name}.txt").write_text("\n".join(texts))
    make_tokenizer(f"{path}/ko.txt,{path}/en.txt", 200, path / "tokenizer.json", True, 1)
    return path


@pytest.fixture(scope="module")
def expected(directory, tmp_path_factory):
    """The files of an uninterrupted run in this process."""
    out = tmp_path_factory.mktemp("expected") / "out"
    make(directory, out)
    return bytes_of(out)


@pytest.fixture
def small_pieces(monkeypatch):
    """Makes many chunks of a small text."""
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 3000)


def make(directory, out, **flags):
    make_shards(f"{directory}/*.txt", directory / "tokenizer.json", out, OPTIONS, 1, **flags)


def bytes_of(directory):
    files = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.dist
@pytest.mark.usefixtures("small_pieces")
def test_the_tasks_of_a_dead_worker_are_run_by_another(
    cluster, directory, tmp_path, expected, monkeypatch
):
    """The worker is stopped before it is killed, so that it certainly has a task."""
    done = []

    def kill_worker(pool, workers, function, tasks):
        for task, result in run_tasks(pool, workers, function, tasks):
            done.append(function.__name__)
            worker = cluster.workers["a"]
            if len(done) == 3:
                worker.send_signal(signal.SIGSTOP)
            if len(done) == 9:
                assert any(_tasks_of_worker(pool, "a"))
                worker.kill()
                worker.wait()
            yield task, result

    monkeypatch.setattr(stages, "run_tasks", kill_worker)
    make(directory, tmp_path / "out", scheduler=cluster.address)
    assert bytes_of(tmp_path / "out") == expected
    assert cluster.workers["a"].poll() == -signal.SIGKILL
    assert done.count("tokenize_chunk") > 12  # one result per task, even if it ran twice
    assert done.count("shuffle_and_split") == 8


def _tasks_of_worker(pool, name):
    """The tasks that the scheduler has assigned to a worker."""
    client = pool._client
    (address,) = [
        address
        for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()
        if worker["name"] == name
    ]
    return client.processing([address])[address]


@pytest.mark.dist
@pytest.mark.usefixtures("small_pieces")
def test_an_interrupted_run_is_resumed(cluster, directory, tmp_path, expected, monkeypatch):
    class StoppedError(Exception):
        pass

    def stop(pool, workers, function, tasks):
        for number, each in enumerate(run_tasks(pool, workers, function, tasks)):
            if function.__name__ == "shuffle_and_split" and number == 3:
                raise StoppedError
            yield each

    flags = {"scheduler": cluster.address, "scratch": tmp_path / "scratch"}
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(stages, "run_tasks", stop)
        make(directory, tmp_path / "out", **flags)
    (work_dir,) = (tmp_path / "scratch").iterdir()
    assert len(list((work_dir / "parts").glob("*.bin"))) > 12
    done = []

    def watch(pool, workers, function, tasks):
        for each in run_tasks(pool, workers, function, tasks):
            done.append(function.__name__)
            yield each

    monkeypatch.setattr(stages, "run_tasks", watch)
    make(directory, tmp_path / "out", **flags)
    assert bytes_of(tmp_path / "out") == expected
    assert "tokenize_chunk" not in done
    assert done.count("shuffle_and_split") < 8
    assert not (tmp_path / "scratch").exists()


def check_error(kind, message, address, directory, work=lambda _: None):
    """Check that work on a cluster raises this error."""
    with pytest.raises(kind, match=message), cluster_executor(address, directory) as (pool, _):
        work(pool)


@pytest.mark.dist
def test_each_fault_has_an_error_message(cluster, tmp_path, monkeypatch):
    def fail(pool):
        pool.submit(divmod, 1, 0).result()

    check_error(ZeroDivisionError, "zero", cluster.address, tmp_path, fail)
    monkeypatch.setattr("data_prep.executors.dask._CONNECT_TIMEOUT_S", 0.5)
    unused = "tcp://127.0.0.1:9"
    check_error(LostWorkersError, f"no Dask scheduler answers at {unused}:", unused, tmp_path)
    check_error(ValueError, "--scheduler is '10.0.0.1', expected", "10.0.0.1", tmp_path)
    # As on a worker that does not share the directory: the marker is a file.
    monkeypatch.setattr("data_prep.executors.dask._shares_directory", Path.is_dir)
    message = r"Dask workers .* cannot write to .*: set --scratch or --out"
    check_error(ValueError, message, cluster.address, tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    check_error(ValueError, r"pip install 'bertds\[cluster\]'", cluster.address, tmp_path)


@pytest.mark.dist
def test_a_dead_scheduler_has_an_error_message(tmp_path, monkeypatch):
    with Cluster(tmp_path) as cluster:

        def kill_scheduler(pool):
            future = pool.submit(time.sleep, 60)
            cluster.scheduler.kill()
            future.result(timeout=100)

        with monkeypatch.context() as patch:
            patch.setattr("data_prep.executors.dask._CONNECT_TIMEOUT_S", 0.5)
            message = "has no worker: start `dask worker tcp://"
            check_error(LostWorkersError, message, cluster.address, tmp_path)
        cluster.add_worker("c", "--nthreads=1")
        message = "was lost: restart the scheduler"
        check_error(LostWorkersError, message, cluster.address, tmp_path, kill_scheduler)
