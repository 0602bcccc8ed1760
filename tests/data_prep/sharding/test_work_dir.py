"""Outputs that exist already, locks, and what stays on the disk after a run."""

import contextlib
import fcntl
import itertools
import threading
import time
from dataclasses import replace

import pytest

from data_prep.output.storage import RemoteOutput, parse_output
from data_prep.sharding import stages
from data_prep.sharding.options import ShardOptions, parse_masking
from data_prep.sharding.pipeline import make_shards
from data_prep.sharding.work_dir import lock_work_dir, work_dir_path
from tests.data_prep.sharding.conftest import StoppedError
from tests.data_prep.sharding.shard_contents import read_files


def test_a_finished_output_is_kept(make, text, capsys):
    out = make(text)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    make(text)
    assert "already finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.parametrize(
    "change",
    [
        {"lines": ["other text"] * 9},
        {"options": ShardOptions()},
        {"options": ShardOptions(special_tokens=False, seed=1)},
        {"options": ShardOptions(special_tokens=False, valid_fraction=0)},
    ],
)
def test_an_output_of_other_text_or_options_is_not_overwritten(make, text, change):
    before = read_files(make(text))
    with pytest.raises(FileExistsError, match="already exists, made from other text"):
        make(**({"lines": text} | change))
    assert read_files(make(text)) == before


def test_files_of_unknown_origin_are_not_overwritten(make, text, tmp_path):
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "shard-000000.tar").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        make(text)
    assert list(read_files(tmp_path / "out").values()) == [b"mine"]


def test_an_interrupted_run_is_not_resumed_with_other_text(make, text, monkeypatch):
    def stop(*_):
        raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(stages, "run_tasks", stop)
        make(text)
    with pytest.raises(FileExistsError, match="holds an interrupted run on other text"):
        make(text[:-1])
    make(text)


def test_an_output_of_the_first_masking_version_is_kept_and_resumed(make, text, monkeypatch):
    """The flags do not choose the version, so the same command goes on with the first one."""

    def stop(*_):
        raise StoppedError

    now = parse_masking("static", copies=1, ratio=0.15, unit="word", seed=0)
    before = replace(now, version=1)
    out = make(text, "finished", options=ShardOptions(masking=before))
    files = read_files(out)
    make(text, "finished", options=ShardOptions(masking=now))
    assert read_files(out) == files
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(stages, "run_tasks", stop)
        make(text, "resumed", options=ShardOptions(masking=before))
    assert read_files(make(text, "resumed", options=ShardOptions(masking=now))) == files
    assert read_files(make(text, "new", options=ShardOptions(masking=now))) != files


def test_a_second_run_at_the_same_time_is_rejected(make, text, tmp_path):
    (tmp_path / "out" / ".work").mkdir(parents=True)
    with (tmp_path / "out" / ".work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match=r"another process is writing .*out"):
            make(text)
    make(text)


def test_the_work_directory_in_scratch_depends_on_the_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    paths = set()
    for directory in ("one", "two"):
        monkeypatch.chdir(tmp_path / directory)
        for out in ("data", "./data", str(tmp_path / directory / "data")):
            paths.add(work_dir_path(parse_output(out), tmp_path / "scratch"))
    assert len(paths) == 2


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("existing", [(), ("out",), ("scratch",), ("out", "scratch")])
def test_empty_directories_of_the_user_are_kept(
    tmp_path, text, tokenizer_path, monkeypatch, existing, fails, interrupted
):
    """Directories that the run created go, also if an interrupted run created them."""
    (tmp_path / "text").write_text("\n".join(text[: 1 if fails else 50]))
    base = tmp_path / "base"
    base.mkdir()
    for name in existing:
        (base / name).mkdir()

    def make(options):
        scratch = base / "scratch"
        make_shards(f"{tmp_path}/text", tokenizer_path, base / "out", options, 1, scratch=scratch)

    def stop(*_):
        raise StoppedError

    options = ShardOptions(valid_fraction=1e-9 if fails else 0)
    if interrupted:
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(stages, "run_tasks", stop)
            make(options)
    with pytest.raises(ValueError) if fails else contextlib.nullcontext():
        make(options)
    expected = set(existing)
    if not fails:
        expected.add("out")
    elif interrupted:
        expected.add("scratch")
    assert {path.name for path in base.iterdir()} == expected


def test_an_empty_output_directory_of_the_user_is_kept_after_an_error(make, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="is empty: expected some text"):
        make([""])
    assert list((tmp_path / "out").iterdir()) == []


def test_the_work_directory_is_removed_while_cluster_workers_still_write(tmp_path):
    """The run does not wait for the workers, and the next run finds nothing of theirs."""
    work_dir = tmp_path / "out" / ".work"
    ended = []

    def keep_writing():
        for number in itertools.count():
            try:
                (work_dir / "parts" / f"{number}.bin").touch()
            except FileNotFoundError:
                break
        ended.append(number)

    for _ in range(10):
        threads = [threading.Thread(target=keep_writing) for _ in range(2)]
        with (
            pytest.raises(ValueError, match="error in the input"),
            lock_work_dir(RemoteOutput("s3://a/b"), work_dir),
        ):
            (work_dir / "parts").mkdir()
            for thread in threads:
                thread.start()
            while len(list((work_dir / "parts").iterdir())) < 200:
                time.sleep(0.001)
            raise ValueError("error in the input")
        for thread in threads:
            thread.join()
        assert not work_dir.exists()
    assert len(ended) == 20


def test_a_partly_removed_work_directory_is_removed_by_the_next_run(make, text, tmp_path):
    partly_removed = tmp_path / "out" / ".work.gone-0123"
    (partly_removed / "parts").mkdir(parents=True)
    make(text)
    assert not partly_removed.exists()
