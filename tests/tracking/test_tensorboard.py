"""Chart layout, hyperparameters and texts of a case, as TensorBoard reads and shows them."""

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from bertds.tracking.jsonl import MetricsLog
from bertds.tracking.tensorboard import run_summaries
from tests.helpers.browser import opened
from tests.helpers.fake_runs import config, lines_of
from tests.helpers.launching import free_port

SAMPLE = "the **\\[MASK\\]** is\n\n| truth | most likely |\n|---|---|\n| **wolf** | deer 60.0% |"


def content_of(case, arm, sets=("en",), **changes):
    return {
        "case": case,
        "arm": arm,
        "config": config("depth and 깊이", **changes),
        "resolved": {"valid": {name: {"sequences": 9} for name in sets}},
    }


def write_run(run_dir, content, resume_step=0, num_steps=20):
    log = MetricsLog(run_dir, resume_step)
    for summary in run_summaries(content) if resume_step == 0 else ():
        log.show(summary)
    for line in lines_of(num_steps):
        if line["step"] > resume_step:
            log.log(line)
            if "loss/valid" in line:
                log.text("examples/en 1", SAMPLE)
    log.close()


def read(run_dir):
    events = EventAccumulator(str(run_dir / "tb"), size_guidance={"tensors": 0})
    events.Reload()
    return events


def test_layout_has_charts_of_the_logged_tags(tmp_path):
    write_run(tmp_path, content_of("case6", "layers2", sets=("en", "ko")))
    events = read(tmp_path)
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    titles = [category.title for category in layout.category]
    assert titles == ["loss", "accuracy", "learning rate", "throughput"]
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts == {
        "training": ["loss/train$"],
        "validation": ["loss/valid$"],
        "validation, en": ["loss/valid/en$"],
        "validation, ko": ["loss/valid/ko$"],
    }


def test_chart_of_a_set_matches_its_tag_whatever_its_name(tmp_path):
    sets = ("ko+en", "a.b", "a_b")
    write_run(tmp_path, content_of("case6", "layers2", sets=sets))
    (event,) = read(tmp_path).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    logged = [f"loss/valid/{name}" for name in sets]
    for name in sets:
        (pattern,) = charts[f"validation, {name}"]
        assert [tag for tag in logged if re.match(pattern, tag)] == [f"loss/valid/{name}"]


def test_settings_are_hyperparameters_with_their_types(tmp_path):
    write_run(tmp_path, content_of("case6", "layers2", layers=2))
    plugin = read(tmp_path).summary_metadata["_hparams_/session_start_info"].plugin_data
    session = HParamsPluginData.FromString(plugin.content).session_start_info
    assert session.group_name == "case6/layers2"
    assert session.hparams["optimizer.params.lr"].number_value == 5e-4
    assert session.hparams["optimizer.type"].string_value == "Adam"
    assert session.hparams["bertds.model.num_hidden_layers"].number_value == 2
    assert '"30k/en/train"' in session.hparams["bertds.data.train"].string_value
    assert "bertds.title" not in session.hparams


def test_resume_keeps_the_first_records_and_removes_later_samples(tmp_path):
    content = content_of("case6", "layers2")
    write_run(tmp_path, content, num_steps=20)
    write_run(tmp_path, content, resume_step=12, num_steps=15)
    events = read(tmp_path)
    assert len(events.Tensors("custom_scalars__config__")) == 1
    assert [event.step for event in events.Tensors("examples/en 1")] == [5, 10, 15]
    (case,) = events.Tensors("case")
    text = case.tensor_proto.string_val[0].decode()
    assert text.startswith("depth and 깊이\n\n    {")
    shown = "\n".join(line[4:] for line in text.splitlines()[2:])
    assert json.loads(shown) == content


@contextlib.contextmanager
def tensorboard(directory):
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory)]
    with subprocess.Popen(
        [*command, "--port", str(port), "--bind_all"], stderr=subprocess.DEVNULL
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}/"
            for _ in range(240):
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"{url}data/runs") as seen,
                ):
                    if len(json.load(seen)) >= 3:
                        break
                time.sleep(0.25)
            yield url
        finally:
            server.terminate()


@pytest.mark.slow
def test_browser_shows_all_arms_settings_and_texts(tmp_path):
    for layers in (2, 3, 6):
        content = content_of("case6", f"layers{layers}", layers=layers)
        write_run(tmp_path / f"layers{layers}", content)
    with tensorboard(tmp_path) as url, opened(f"{url}#custom_scalars") as (page, asked, _):
        page.wait_for_selector("text=learning rate")
        page.wait_for_selector("text=throughput")
        for layers in (2, 3, 6):
            assert page.locator(f"text=layers{layers}/tb").count() > 0
        page.goto(f"{url}#hparams")
        page.wait_for_selector("text=bertds.model.num_hidden_layers")
        page.goto(f"{url}#text")
        page.wait_for_selector("text=wolf")
        page.wait_for_selector("text=깊이")
        assert all(address.startswith((url, "data:", "blob:")) for address in asked)
