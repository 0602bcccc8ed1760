"""Shards made on a real Dask cluster of this machine: the bytes of one process, whoever dies."""

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
from data_prep import train_tokenizer
from data_prep.executors.dask import cluster_executor
from data_prep.executors.local import run_tasks
from data_prep.readers import cleaning
from data_prep.sharding import pipeline as make_shards_module
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = ShardOptions(special_tokens=False, shard_bytes=1)  # a shard for each block
DASK = [sys.executable, "-m", "dask"]


class Cluster:
    """A scheduler and workers, each a process of its own; none outlives the `with`."""

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

    def _start(self, what, *arguments, log=None):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.directory / f"{log or what}.log").open("wb") as output:
            process = subprocess.Popen(
                [*DASK, what, "--host=127.0.0.1", *arguments],
                stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=self.directory,
            )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _wait(self, pattern, log):
        deadline = time.monotonic() + 300
        while not (found := re.search(pattern, (self.directory / f"{log}.log").read_text())):
            assert time.monotonic() < deadline, (self.directory / f"{log}.log").read_text()
            time.sleep(0.05)
        return found[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """With the workers `a`, which the first test kills, and `b`, which has two threads."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        started.add_worker("a", "--nthreads=1")
        started.add_worker("b", "--nthreads=2")
        yield started


@pytest.fixture(scope="module")
def directory(lines, tmp_path_factory):
    """A text in two files, and a tokenizer."""
    made = tmp_path_factory.mktemp("text")
    for name, texts in lines.items():
        (made / f"{name}.txt").write_text("\n".join(texts))
    spec = f"{made}/ko.txt,{made}/en.txt"
    train_tokenizer.make_tokenizer(spec, 200, made / "tokenizer.json", True, 1)
    return made


@pytest.fixture(scope="module")
def expected(directory, tmp_path_factory):
    """The files of an undisturbed run in this process."""
    out = tmp_path_factory.mktemp("expected") / "out"
    make(directory, out)
    return bytes_of(out)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 3000)


def make(directory, out, **where):
    make_shards(f"{directory}/*.txt", directory / "tokenizer.json", out, OPTIONS, 1, **where)


def bytes_of(directory):
    files = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.dist
@pytest.mark.usefixtures("small_pieces")
def test_a_worker_that_dies_costs_its_tasks_only(
    cluster, directory, tmp_path, expected, monkeypatch
):
    """Stopped first, so that it surely has a task when it is killed."""
    done = []

    def watched(pool, workers, function, tasks):
        for task, result in run_tasks(pool, workers, function, tasks):
            done.append(function.__name__)
            worker = cluster.workers["a"]
            if len(done) == 3:
                worker.send_signal(signal.SIGSTOP)
            if len(done) == 9:
                assert any(_at_work(pool, "a"))
                worker.kill()
                worker.wait()
            yield task, result

    monkeypatch.setattr(make_shards_module, "run_tasks", watched)
    make(directory, tmp_path / "spread", scheduler=cluster.address)
    assert bytes_of(tmp_path / "spread") == expected
    assert cluster.workers["a"].poll() == -signal.SIGKILL
    assert done.count("scatter") > 12  # each gave one result, also those that were done twice
    assert done.count("gather") == 8


def _at_work(pool, name):
    """The tasks that a worker has, by the scheduler's account."""
    client = pool._client
    (address,) = [
        address
        for address, facts in client.scheduler_info(n_workers=-1)["workers"].items()
        if facts["name"] == name
    ]
    return client.processing([address])[address]


@pytest.mark.dist
@pytest.mark.usefixtures("small_pieces")
def test_an_interrupted_run_goes_on(cluster, directory, tmp_path, expected, monkeypatch):
    class StoppedError(Exception):
        pass

    def stopped(pool, workers, function, tasks):
        for number, each in enumerate(run_tasks(pool, workers, function, tasks)):
            if function.__name__ == "gather" and number == 3:
                raise StoppedError
            yield each

    place = {"scheduler": cluster.address, "scratch": tmp_path / "scratch"}
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(make_shards_module, "run_tasks", stopped)
        make(directory, tmp_path / "spread", **place)
    (work,) = (tmp_path / "scratch").iterdir()
    assert len(list((work / "parts").glob("*.bin"))) > 12
    done = []

    def watched(pool, workers, function, tasks):
        for each in run_tasks(pool, workers, function, tasks):
            done.append(function.__name__)
            yield each

    monkeypatch.setattr(make_shards_module, "run_tasks", watched)
    make(directory, tmp_path / "spread", **place)
    assert bytes_of(tmp_path / "spread") == expected
    assert "scatter" not in done
    assert done.count("gather") < 8
    assert not (tmp_path / "scratch").exists()


def refused(kind, words, address, directory, work=lambda _: None):
    """Work on a cluster that ends with one sentence."""
    with pytest.raises(kind, match=words), cluster_executor(address, directory) as (pool, _):
        work(pool)


@pytest.mark.dist
def test_what_cannot_work_is_one_sentence(cluster, tmp_path, monkeypatch):
    def fail(pool):
        pool.submit(divmod, 1, 0).result()

    refused(ZeroDivisionError, "zero", cluster.address, tmp_path, fail)
    monkeypatch.setattr("data_prep.executors.dask._PATIENCE_S", 0.5)
    nobody = "tcp://127.0.0.1:9"
    refused(LostWorkersError, f"no Dask scheduler answers at {nobody}:", nobody, tmp_path)
    refused(ValueError, "--scheduler is '10.0.0.1', wanted is", "10.0.0.1", tmp_path)
    monkeypatch.setattr(
        "data_prep.executors.dask._shares", Path.is_dir
    )  # which the file there is not
    words = r"Dask workers .* cannot write in .* by --scratch"
    refused(ValueError, words, cluster.address, tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(ValueError, r"pip install 'bertds\[cluster\]'", cluster.address, tmp_path)


@pytest.mark.dist
def test_a_scheduler_that_dies_is_one_sentence(tmp_path, monkeypatch):
    with Cluster(tmp_path) as cluster:

        def outlive(pool):
            waiting = pool.submit(time.sleep, 60)
            cluster.scheduler.kill()
            waiting.result(timeout=100)

        with monkeypatch.context() as patch:
            patch.setattr("data_prep.executors.dask._PATIENCE_S", 0.5)
            words = "has no worker: start `dask worker tcp://"
            refused(LostWorkersError, words, cluster.address, tmp_path)
        cluster.add_worker("c", "--nthreads=1")
        refused(LostWorkersError, "was lost: start it and its", cluster.address, tmp_path, outlive)
