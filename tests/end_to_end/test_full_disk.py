"""A disk that fills up, or vanishes, while a run trains: nothing complete is lost."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bertds.checkpoint.directory import list_checkpoints, resolve_pointer
from bertds.errors import CheckpointWriteError
from bertds.io.json_files import read_json
from bertds.tracking.jsonl import MetricsLog
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of
from tests.helpers.small_disk import small_disk
from tests.helpers.weights import read_weights


@pytest.fixture(name="small_disk")
def mounted_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "2m") as directory:
        yield directory


def fill(disk: Path) -> None:
    """Fill the disk."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


class On(logging.Handler):
    """Runs a callback when a message is logged."""

    def __init__(self, words: str, work: Callable[[], None]) -> None:
        super().__init__()
        self._words, self._work = words, work

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self._work()


@contextlib.contextmanager
def on(*pairs: tuple[str, Callable[[], None]]) -> Iterator[None]:
    logger = logging.getLogger("bertds")
    level, handlers = logger.level, [On(words, work) for words, work in pairs]
    logger.setLevel(logging.INFO)
    logger.handlers += handlers
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)


def test_training_continues_and_saves_when_there_is_room(
    small_disk: Path,
    data_root: Path,
    tmp_path: Path,
    device: torch.device,
    told: pytest.LogCaptureFixture,
) -> None:
    """The disk is full from step 6 until the save of step 8 has failed. Only that checkpoint is missing."""
    run_dir = small_disk / "case" / "main"
    seen = []
    with on(
        ("step 6: validation", lambda: fill(small_disk)),
        (
            "could not be written",
            lambda: seen.append([path.name for path in list_checkpoints(run_dir)]),
        ),
        ("could not be written", (small_disk / "filler").unlink),
    ):
        settings = "run.keep_last=9,run.eval_every=6"
        assert train_here(data_root, small_disk, device, settings) == 0
    # The save of step 6 was the best one, and the first without room.
    said = [m for m in told.messages if "could not be written" in m]
    assert len(said) == 1
    assert "step_0000000006" in said[0]
    assert "earlier checkpoints are unharmed" in said[0]
    assert "No space left on device" in said[0]
    assert "training continues" in said[0]
    assert seen == [["step_0000000004"]]
    names = [path.name for path in list_checkpoints(run_dir)]
    assert names == ["step_0000000012", "step_0000000008", "step_0000000004"]
    assert resolve_pointer(run_dir, "latest") == list_checkpoints(run_dir)[0]
    read_weights(list_checkpoints(run_dir)[0])
    assert not list((run_dir / "checkpoints").glob("*.tmp-*"))
    assert train_here(data_root, tmp_path / "straight", device, settings) == 0
    assert figures_of(run_dir) == figures_of(tmp_path / "straight" / "case" / "main")


def test_the_last_checkpoint_must_be_written(
    small_disk: Path, data_root: Path, device: torch.device
) -> None:
    """Without it a run is neither done nor preempted. Restarted with room, it finishes."""
    run_dir = small_disk / "case" / "main"
    with (
        on(("step 12: validation", lambda: fill(small_disk))),
        pytest.raises(CheckpointWriteError, match="step_0000000012 could not be written") as ended,
    ):
        train_here(data_root, small_disk, device, "run.eval_every=12")
    assert ended.value.code == 4
    assert list_checkpoints(run_dir)[0].name == "step_0000000008"
    (small_disk / "filler").unlink()
    assert train_here(data_root, small_disk, device, "run.eval_every=12") == 0
    assert list_checkpoints(run_dir)[0].name == "step_0000000012"
    assert read_json(run_dir / "status.json")["state"] == "done"


def test_metric_lines_are_kept_until_there_is_room(
    small_disk: Path, told: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and in the end no line is missing, torn or duplicated."""
    log = MetricsLog(small_disk, 0)
    for step in range(300):
        if step == 20:
            fill(small_disk)
        if step == 200:
            (small_disk / "filler").unlink()
        log.log({"step": step, "loss/train": step / 7, "text": step})
    log.close()
    assert [line["step"] for line in figures_of(small_disk)] == list(range(300))
    assert sum("kept until there is room" in m for m in told.messages) == 1


def test_a_vanished_directory_costs_only_the_final_checkpoint(
    data_root: Path, tmp_path: Path, device: torch.device, told: pytest.LogCaptureFixture
) -> None:
    """It is away from step 6 on. When it is back, the same command resumes from step 4."""
    out, away = tmp_path / "mount" / "out", tmp_path / "away"

    def vanish() -> None:
        out.parent.rename(away)
        out.parent.write_bytes(b"")  # a file where the directory was

    settings = "run.eval_every=6"
    with (
        on(("step 6: validation", vanish)),
        pytest.raises(CheckpointWriteError, match="step_0000000012 could not be written") as ended,
    ):
        train_here(data_root, out, device, settings)
    assert ended.value.code == 4
    assert any("training continues" in message for message in told.messages)
    out.parent.unlink()
    away.rename(out.parent)
    assert [path.name for path in list_checkpoints(out / "case" / "main")] == ["step_0000000004"]
    assert train_here(data_root, out, device, settings) == 0
    assert train_here(data_root, tmp_path / "straight", device, settings) == 0
    assert figures_of(out / "case" / "main") == figures_of(tmp_path / "straight" / "case" / "main")
