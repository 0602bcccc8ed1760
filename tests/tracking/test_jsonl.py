"""metrics.jsonl and TensorBoard: equal content, truncation on resume, full disks, damaged files."""

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from bertds.tracking.jsonl import MetricsLog, read_metrics


def train_line(step, loss=2.5):
    return {"step": step, "epoch": step / 10, "loss/train": loss, "seconds": step * 0.5}


def write_steps(run_dir, resume_step, steps, loss=2.5, valid_every=5):
    log = MetricsLog(run_dir, resume_step)
    for step in steps:
        log.log(train_line(step, loss))
        if step % valid_every == 0:
            log.log({"step": step, "seconds": step * 0.5, "loss/valid": loss + 0.25})
    log.close()


def scalars(run_dir, tag):
    events = EventAccumulator(str(run_dir / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_each_line_is_written_immediately(tmp_path):
    log = MetricsLog(tmp_path / "run", 0)
    log.log({"step": 1, "loss/train": 2.5, "tokens": 7})
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss/train": 2.5,
        "tokens": 7,
    }
    log.close()


def test_numpy_scalars_and_non_finite_numbers(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.log(
        {
            "step": np.int64(3),
            "tokens": np.int32(10),
            "acc/train": np.float32(0.5),
            "loss/train": math.nan,
            "grad_norm": np.float64("inf"),
        }
    )
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == (
        '{"step": 3, "tokens": 10, "acc/train": 0.5, "loss/train": null, "grad_norm": null}\n'
    )
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(line["loss/train"])
    assert line["acc/train"] == 0.5
    assert math.isnan(scalars(tmp_path, "loss/train")[0][1])


def test_tensorboard_has_the_same_tags_and_values(tmp_path):
    write_steps(tmp_path, 0, range(1, 11))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    for tag in ("epoch", "loss/train", "loss/valid", "seconds"):
        expected = [(line["step"], line[tag]) for line in lines if tag in line]
        assert scalars(tmp_path, tag) == [(step, pytest.approx(value)) for step, value in expected]


@pytest.mark.parametrize("lost", [0, 1, 7, 40])
def test_resumed_run_has_each_step_once(tmp_path, lost):
    """Crash at 20 + lost, resume from 20, stop at 30: all readers see 1 to 30, with new values."""
    write_steps(tmp_path, 0, range(1, 21 + lost))
    write_steps(tmp_path, 20, range(21, 31), loss=1.5)
    train = [(step, 2.5 if step <= 20 else 1.5) for step in range(1, 31)]
    valid = [(step, value + 0.25) for step, value in train if step % 5 == 0]
    lines = read_metrics(tmp_path / "metrics.jsonl")
    for tag, expected in (("loss/train", train), ("loss/valid", valid)):
        assert [(line["step"], line[tag]) for line in lines if tag in line] == expected
        assert scalars(tmp_path, tag) == expected


def test_tensorboard_server_shows_no_removed_step(tmp_path):
    """TensorBoard's own loader, started after the resume, before a new point is logged."""
    write_steps(tmp_path / "arm", 0, range(1, 21))
    MetricsLog(tmp_path / "arm", 12).close()
    server = EventMultiplexer()
    server.AddRunsFromDirectory(str(tmp_path))
    server.Reload()
    assert [event.step for event in server.Tensors("arm/tb", "loss/train")] == list(range(1, 13))
    assert [event.step for event in server.Tensors("arm/tb", "loss/valid")] == [5, 10]


def test_running_tensorboard_drops_removed_steps(tmp_path):
    write_steps(tmp_path, 0, range(1, 21))
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    write_steps(tmp_path, 10, range(11, 14))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/train")] == list(range(1, 14))


def test_resumes_within_one_second_keep_their_order(tmp_path):
    for start in range(0, 33, 3):
        write_steps(tmp_path, start, range(start + 1, start + 6))
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == list(range(1, 36))


def test_step_zero_deletes_earlier_content(tmp_path):
    write_steps(tmp_path, 0, range(10))
    write_steps(tmp_path, 0, range(3), loss=1.0)
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == [0, 1, 2]
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [0, 0, 1, 2]  # a training and a validation line at step 0


def test_truncated_ends_of_both_files_are_dropped_on_resume(tmp_path):
    write_steps(tmp_path, 0, range(1, 11))
    (events,) = (tmp_path / "tb").iterdir()
    events.write_bytes(events.read_bytes()[:-9])
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 10, "loss/tr')
    write_steps(tmp_path, 10, range(11, 13))
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == list(range(1, 13))
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert sorted(set(steps)) == list(range(1, 13))


def test_seconds_continue_after_a_resume(tmp_path):
    write_steps(tmp_path, 0, range(1, 21))
    log = MetricsLog(tmp_path, 12)
    assert log.seconds == 6.0
    log.close()


def test_text_is_shown_in_tensorboard(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.text("case", "# 한국어 **case**")
    log.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    (event,) = events.Tensors("case")
    assert event.tensor_proto.string_val[0].decode() == "# 한국어 **case**"


def test_failure_to_create_the_event_directory_is_logged_once(tmp_path, caplog):
    (tmp_path / "tb").write_text("not a directory")
    with caplog.at_level(logging.WARNING, logger="bertds"):
        write_steps(tmp_path, 0, range(1, 11))
    assert [record.name for record in caplog.records] == ["bertds"]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 12


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_failure_to_write_events_is_logged_once(tmp_path, caplog):
    log = MetricsLog(tmp_path, 0)
    log._events._records._writer = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    with caplog.at_level(logging.WARNING, logger="bertds"):
        for step in range(1, 6):
            log.log(train_line(step))
        log.text("case", "text")
        log.close()
    assert len(caplog.records) == 1
    assert "No space left" in caplog.records[0].getMessage()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5


metrics = st.dictionaries(
    st.sampled_from(["loss/train", "acc/train", "lr", "loss/valid/ko"]),
    st.floats(allow_nan=True, allow_infinity=False),
)


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(metrics, min_size=1, max_size=6), cut=st.integers(0, 400))
def test_every_complete_line_of_a_truncated_file_is_read(tmp_path_factory, lines, cut):
    path = tmp_path_factory.mktemp("truncated") / "metrics.jsonl"
    written = [json.dumps({"step": step, **line}) + "\n" for step, line in enumerate(lines)]
    text = "".join(written)[:cut]
    path.write_text(text)
    # An object is complete without its newline.
    ends = [sum(map(len, written[: n + 1])) - 1 for n in range(len(written))]
    assert len(read_metrics(path)) == sum(end <= len(text) for end in ends)


def test_missing_file_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("broken", ["{", "[1]", '{"loss/train": 1}', '{"step": 1, "lr": "x"}'])
def test_invalid_line_that_is_not_the_last_is_named(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + broken + '\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is not") as error:
        read_metrics(path)
    assert "\n" not in str(error.value)


def test_neither_torch_nor_tensorflow_is_imported():
    modules = "bertds.tracking.jsonl, bertds.tracking.tensorboard"
    code = f"import sys, {modules}; print({{'torch', 'tensorflow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
