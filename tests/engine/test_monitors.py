"""DeepSpeed's monitors and MLflow get the metrics of the run."""

import csv
import errno
import importlib.machinery
import json
import sys
import types
from pathlib import Path

import pytest
import torch

from bertds.config.batch import split_batch
from bertds.config.case import read_case
from bertds.engine.deepspeed_config import MONITORS, deepspeed_config
from bertds.errors import ConfigError
from bertds.optim.lr_schedules import ScheduleLengths
from tests.helpers.in_process_training import BASE, train_here


def test_csv_equals_metrics(device: torch.device, data_root: Path, tmp_path: Path) -> None:
    where = f"csv_monitor.output_path={tmp_path / 'csv'}"
    assert train_here(data_root, tmp_path, device, f"csv_monitor.enabled=true,{where}") == 0
    run_dir = tmp_path / "case" / "main"
    assert not list((tmp_path / "csv").rglob("Train_*"))  # DeepSpeed's own metrics, by samples
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss/train", "loss/valid", "lr", "tokens"):
        path = tmp_path / "csv" / "case" / "main" / f"{key.replace('/', '_')}.csv"
        (_, *rows) = csv.reader(path.open())
        assert [[int(step), float(value)] for step, value in rows] == [
            [line["step"], line[key]] for line in lines if key in line
        ]


def test_a_failing_monitor_does_not_end_training(
    device: torch.device,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deepspeed.monitor.csv_monitor.csvMonitor.write_events", fail)
    where = f"csv_monitor.output_path={tmp_path / 'csv'}"
    assert train_here(data_root, tmp_path, device, f"csv_monitor.enabled=true,{where}") == 0
    said = [message for message in told.messages if "csv_monitor" in message]
    assert len(said) == 1
    assert "No space left on device" in said[0]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"enabled": True}, "case/fast"),
        ({"enabled": True, "job_name": "mine"}, "mine/fast"),
    ],
)
def test_no_two_arms_share_an_output(tmp_path: Path, given: dict[str, object], wanted: str) -> None:
    path = tmp_path / "case.json"
    monitors = {"csv_monitor": given, "wandb": {"enabled": True}, "comet": {}}
    bertds = {**BASE["bertds"], "arms": {"fast": {}, "slow": {}}}
    path.write_text(json.dumps({**BASE, **monitors, "bertds": bertds}))
    case = read_case(path, "fast", "")
    config = deepspeed_config(case, split_batch(case, 1), ScheduleLengths(10, 12), on_gpu=False)
    assert config["csv_monitor"]["job_name"] == wanted
    assert config["wandb"]["group"] == "case"
    assert config["comet"]["experiment_name"] == "case/fast"
    assert config["comet"]["samples_log_interval"] == 1
    assert set(config) & set(MONITORS) == set(monitors)


def test_a_secret_is_rejected_and_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    with pytest.raises(ConfigError, match="COMET_API_KEY") as refused:
        read_case(path, "main", "comet.api_key=s3cret")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "package", "command"),
    [
        ("run.mlflow={}", "mlflow", "pip install mlflow-skinny"),
        ("wandb.enabled=true", "wandb", "pip install wandb"),
        ("comet.enabled=true", "comet_ml", r"pip install 'comet_ml>="),
    ],
)
def test_a_tracker_is_rejected_where_it_is_not_installed(
    device: torch.device,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
    package: str,
    command: str,
) -> None:
    """Before the start. W&B's directory of runs, ./wandb, is not the package."""
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / package).mkdir()
    with pytest.raises(ConfigError, match=command):
        train_here(data_root, tmp_path, device, settings)
    assert not (tmp_path / "case" / "main").exists()


def test_a_tracker_that_cannot_start_does_not_end_training(
    device: torch.device, data_root: Path, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    """The others start and receive all metrics."""
    (tmp_path / "file").touch()
    settings = f"tensorboard.enabled=true,tensorboard.output_path={tmp_path / 'file'}"
    settings += f",csv_monitor.enabled=true,csv_monitor.output_path={tmp_path / 'csv'}"
    assert train_here(data_root, tmp_path, device, settings) == 0
    assert told.text.count("tensorboard cannot be used (NotADirectoryError") == 1
    rows = (tmp_path / "csv" / "case" / "main" / "lr.csv").read_text().splitlines()
    assert len(rows) == 1 + 12


class FakeWandb:
    """What DeepSpeed and this project call of W&B."""

    def __init__(self) -> None:
        self.run = self.config = self
        self.name, self.logged, self.finished = "random-words-1", [], 0

    def init(self, *, project: str, group: str, entity: str | None) -> None:
        self.group = (project, group, entity)

    def update(self, settings: dict[str, object]) -> None:
        self.settings = settings

    def log(self, values: dict[str, float], step: int, commit: bool | None) -> None:
        self.logged.append((step, values, commit))

    def finish(self) -> None:
        self.finished += 1


def test_a_wandb_run_has_name_group_and_settings(
    device: torch.device, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named after case and arm, unless the user names it with W&B's own variable."""
    fake = FakeWandb()
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="here")
    module.__dict__.update({name: getattr(fake, name) for name in ("run", "init", "log", "finish")})
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert train_here(data_root, tmp_path, device, "wandb.enabled=true,wandb.team=us") == 0
    assert (fake.name, fake.group) == ("case/main", ("deepspeed", "case", "us"))
    assert fake.settings["optimizer"]["params"]["lr"] == 2e-3
    assert [step for step, values, _ in fake.logged if "loss/train" in values] == [*range(1, 13)]
    assert fake.finished == 1
    monkeypatch.setenv("WANDB_NAME", "mine")
    fake.name = "mine"
    assert train_here(data_root, tmp_path, device, "wandb.enabled=true,run.max_steps=13") == 0
    assert fake.name == "mine"


def test_credentials_in_the_mlflow_address_are_rejected_and_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    where = 'run.mlflow={"tracking_uri":"https://me:s3cret@host/"}'
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        read_case(path, "main", where)
    assert "s3cret" not in str(refused.value)


def test_an_unreachable_mlflow_server_does_not_end_training(
    device: torch.device, data_root: Path, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    where = 'run.mlflow={"tracking_uri":"http://127.0.0.1:9"}'
    assert train_here(data_root, tmp_path, device, where) == 0
    assert told.text.count("MLflow logging failed") == 1


def test_mlflow_equals_metrics_and_resumes_in_one_run(
    device: torch.device, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "store").as_uri()
    mlflow_of = f'run.mlflow={{"tracking_uri":"{store}","experiment":"mine"}}'
    assert train_here(data_root, tmp_path, device, f"{mlflow_of},run.max_steps=8") == 0
    assert train_here(data_root, tmp_path, device, mlflow_of) == 0
    client = mlflow.MlflowClient(tracking_uri=store)
    (one,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (one.info.run_name, one.info.status) == ("case/main", "FINISHED")
    assert one.data.params["optimizer.params.lr"] == "0.002"
    run_dir = tmp_path / "case" / "main"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss/train", "loss/valid/ko", "lr", "tokens"):
        found = client.get_metric_history(one.info.run_id, key)
        assert {(each.step, each.value) for each in found} == {
            (line["step"], line[key]) for line in lines if key in line
        }
