"""TODO."""

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


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    log = MetricsLog(tmp_path / "run", 0)
    log.log({"step": 1, "loss/train": 2.5, "tokens": 7})
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss/train": 2.5,
        "tokens": 7,
    }
    log.close()


def test_numpy_numbers_and_numbers_that_are_not_finite(tmp_path):
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
        wanted = [(line["step"], line[tag]) for line in lines if tag in line]
        assert scalars(tmp_path, tag) == [(step, pytest.approx(value)) for step, value in wanted]


@pytest.mark.parametrize("lost", [0, 1, 7, 40])
def test_a_resumed_run_has_no_doubled_and_no_stale_step(tmp_path, lost):
    """Crash at 20 + lost, resume from 20, stop at 30: every reader sees 1..30, the later values."""
    write_steps(tmp_path, 0, range(1, 21 + lost))
    write_steps(tmp_path, 20, range(21, 31), loss=1.5)
    train = [(step, 2.5 if step <= 20 else 1.5) for step in range(1, 31)]
    valid = [(step, value + 0.25) for step, value in train if step % 5 == 0]
    lines = read_metrics(tmp_path / "metrics.jsonl")
    for tag, wanted in (("loss/train", train), ("loss/valid", valid)):
        assert [(line["step"], line[tag]) for line in lines if tag in line] == wanted
        assert scalars(tmp_path, tag) == wanted


def test_the_tensorboard_server_sees_no_stale_step(tmp_path):
    """TensorBoard's own loader, started afresh, without a new point after the resume."""
    write_steps(tmp_path / "arm", 0, range(1, 21))
    MetricsLog(tmp_path / "arm", 12).close()
    server = EventMultiplexer()
    server.AddRunsFromDirectory(str(tmp_path))
    server.Reload()
    assert [event.step for event in server.Tensors("arm/tb", "loss/train")] == list(range(1, 13))
    assert [event.step for event in server.Tensors("arm/tb", "loss/valid")] == [5, 10]


def test_an_open_tensorboard_forgets_what_was_cut(tmp_path):
    write_steps(tmp_path, 0, range(1, 21))
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    write_steps(tmp_path, 10, range(11, 14))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/train")] == list(range(1, 14))


def test_many_resumes_within_a_second_keep_their_order(tmp_path):
    for start in range(0, 33, 3):
        write_steps(tmp_path, start, range(start + 1, start + 6))
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == list(range(1, 36))


def test_step_zero_starts_anew(tmp_path):
    write_steps(tmp_path, 0, range(10))
    write_steps(tmp_path, 0, range(3), loss=1.0)
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == [0, 1, 2]
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [0, 0, 1, 2]  # a training and a validation line at step 0


def test_a_torn_end_of_both_files_is_dropped_on_resume(tmp_path):
    write_steps(tmp_path, 0, range(1, 11))
    (events,) = (tmp_path / "tb").iterdir()
    events.write_bytes(events.read_bytes()[:-9])
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 10, "loss/tr')
    write_steps(tmp_path, 10, range(11, 13))
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == list(range(1, 13))
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert sorted(set(steps)) == list(range(1, 13))


def test_seconds_go_on_after_a_resume(tmp_path):
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


def test_a_directory_that_cannot_be_made_is_said_once(tmp_path, caplog):
    (tmp_path / "tb").write_text("a file in the way")
    with caplog.at_level(logging.WARNING, logger="bertds"):
        write_steps(tmp_path, 0, range(1, 11))
    assert [record.name for record in caplog.records] == ["bertds"]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 12


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_tensorboard_is_said_once(tmp_path, caplog):
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


figures = st.dictionaries(
    st.sampled_from(["loss/train", "acc/train", "lr", "loss/valid/ko"]),
    st.floats(allow_nan=True, allow_infinity=False),
)


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(figures, min_size=1, max_size=6), cut=st.integers(0, 400))
def test_every_whole_line_of_a_torn_file_is_read(tmp_path_factory, lines, cut):
    path = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    written = [json.dumps({"step": step, **line}) + "\n" for step, line in enumerate(lines)]
    text = "".join(written)[:cut]
    path.write_text(text)
    # The newline after an object adds nothing to it.
    ends = [sum(map(len, written[: n + 1])) - 1 for n in range(len(written))]
    assert len(read_metrics(path)) == sum(end <= len(text) for end in ends)


def test_no_file_holds_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("broken", ["{", "[1]", '{"loss/train": 1}', '{"step": 1, "lr": "x"}'])
def test_a_broken_line_elsewhere_is_named(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + broken + '\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is not") as error:
        read_metrics(path)
    assert "\n" not in str(error.value)


def test_neither_torch_nor_tensorflow_is_imported():
    code = "import sys, bertds.metrics; print({'torch', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
