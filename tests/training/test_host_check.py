"""Hosts that see different shards or another directory are rejected on all ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from bertds.distributed.world import World
from bertds.io.json_files import read_json
from launch.train import _reported_once
from tests.helpers.launching import lines_of, run
from tests.launch.test_train import BASE, TINY, arguments

pytestmark = pytest.mark.dist
ANOTHER = "-of-another-host"


@pytest.fixture
def data(
    data_root: Path,
    tmp_path: Path,
    lines: dict[str, list[str]],
    tokenizer: Tokenizer,
    write_shards: Callable[..., ShardSet],
) -> Path:
    """The datasets, and a copy of another host with an older `en`."""
    older = tmp_path / f"data{ANOTHER}"
    older.mkdir()
    (older / "ko").symlink_to(data_root / "ko")
    rows = tokenizer.encode_batch(lines["en"][:-20])
    write_shards(older / "en", rows, set_key=13, block_sequences=(7, 12))
    here = tmp_path / "data"
    here.symlink_to(data_root)
    return here


def train(what: str, data: Path, tmp_path: Path, **block: Any) -> tuple[int, str]:
    """Train the case on two ranks, the second of which differs in something."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps({**BASE, "scheduler": None, "bertds": {**BASE["bertds"], **block}}))
    flags = arguments(path, data, tmp_path / "out", TINY)
    return run(2, what, *flags, program="tests/helpers/workers/uneven_launch.py", launcher="spawn")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("data", "the training set en differs between"),
        ("out", "--out must be on a file system that all hosts share"),
    ],
)
def test_differing_hosts_are_rejected_on_all_ranks(
    what: str, sentence: str, data: Path, tmp_path: Path
) -> None:
    """Before the first step, on all ranks at once: no rank waits for another."""
    code, output = train(what, data, tmp_path)
    assert code != 0
    assert sentence in output, output
    run_dir = tmp_path / "out" / "case" / "main"
    status = read_json(run_dir / "status.json")
    assert (status["state"], status["code"]) == ("failed", 2)
    assert sentence in status["message"]
    assert not (run_dir / "metrics.jsonl").exists()
    assert not list(run_dir.glob(".seen-*"))


def test_a_signal_between_two_arms_ends_before_the_second(data: Path, tmp_path: Path) -> None:
    code, output = train("signal", data, tmp_path, arms={"first": {}, "second": {}})
    assert code == 75, output
    out = tmp_path / "out" / "case"
    assert read_json(out / "first" / "status.json")["state"] == "done"
    assert not (out / "second" / "status.json").exists()
    code, output = train("nothing", data, tmp_path, arms={"first": {}, "second": {}})
    assert code == 0, output
    assert lines_of(out / "second")


def test_status_names_the_fault_of_the_failed_rank(data: Path, tmp_path: Path) -> None:
    code, output = train("shard", data, tmp_path)
    assert code in (3, 70), output  # 70 if the other rank ended first
    status = read_json(tmp_path / "out" / "case" / "main" / "status.json")
    assert (status["state"], status["code"]) == ("failed", 3), output
    assert status["message"] == "here/000001.tar is cut"


def test_one_rank_per_host_reports_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other ranks wait, so that it can print."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(ValueError, match="missing"):
        complain(World(rank=2, local_rank=0, local_size=2, world_size=4))
    with pytest.raises(SystemExit):
        complain(World(rank=3, local_rank=1, local_size=2, world_size=4))
    assert waits


def complain(world: World) -> None:
    with _reported_once(world):
        raise ValueError("data/ko is missing")
