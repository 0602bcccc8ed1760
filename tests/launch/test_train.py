"""The real program: launcher, ranks, arms, signals, rejected input."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertds.checkpoint.directory import list_checkpoints
from bertds.config.case import list_arms
from bertds.io.json_files import read_json
from tests.helpers.launching import ROOT, figures_of, kill_group, lines_of, run, start
from tests.helpers.weights import read_weights

BASE: dict[str, Any] = {
    "train_batch_size": 32,
    "gradient_clipping": 0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 2e-3, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01},
    },
    "scheduler": {"type": "WarmupLinearLR", "params": {"warmup_num_steps": 5}},
    "zero_optimization": {"stage": 2},
    "bertds": {
        "title": "A test",
        "model": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        },
        "data": {
            "train": [{"name": "ko"}, {"name": "en"}],
            "valid": {"ko": {"name": "ko", "fraction": 0.1}, "en": {"name": "en"}},
            "seq_len": 64,
        },
        "run": {"max_steps": 30, "log_every": 1, "eval_every": 10, "save_every": 10},
    },
}
TINY = (
    "model.hidden_size=16,model.num_hidden_layers=1,model.num_attention_heads=2,"
    "model.intermediate_size=16,run.max_steps=3,run.log_every=1,run.eval_every=3"
)


@pytest.fixture
def train(tmp_path: Path, data_root: Path) -> Callable[..., tuple[int, str]]:
    """Runs the base case on some ranks, with changes by --set, into out/case/main."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))

    def run_case(processes: int, out: str, settings: str = "") -> tuple[int, str]:
        return run(processes, *arguments(path, data_root, tmp_path / out, settings))

    return run_case


def arguments(path: Path, data: Path, out: Path, settings: str = "") -> list[str]:
    flags = ["--ds_config", str(path), "--data", str(data), "--out", str(out)]
    return [*flags, "--set", settings] if settings else flags


@pytest.mark.dist
def test_a_preempted_run_resumes_bit_exact(
    train: Callable[..., tuple[int, str]], tmp_path: Path, data_root: Path
) -> None:
    """After SIGTERM: saved, code 75, preempted. Resumed, it equals the uninterrupted run.

    Nothing is left in /dev/shm, where DeepSpeed's own collectives would leave 66 MB a process.
    """
    shared = set(Path("/dev/shm").glob("deepspeed*"))
    settings = "run.max_steps=120,run.eval_every=60,run.save_every=50,run.log_every=7"
    path = tmp_path / "case.json"
    straight_flags = arguments(path, data_root, tmp_path / "straight", settings)
    code, output = run(2, *straight_flags, launcher="spawn")
    assert code == 0, output
    stopped = tmp_path / "stopped" / "case" / "main"
    process = start(2, *arguments(path, data_root, tmp_path / "stopped", settings))
    try:
        wait_for_line(stopped / "metrics.jsonl")
        kill_group(process, signal.SIGTERM)
        process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            kill_group(process)
    status = wait_for_state(stopped, "pre-empted")
    assert status["code"] == 75
    assert 0 < status["step"] < 120
    assert int(list_checkpoints(stopped)[0].name[5:]) == status["step"]
    code, output = train(2, "stopped", settings)
    assert code == 0, output
    straight = tmp_path / "straight" / "case" / "main"
    assert figures_of(stopped) == figures_of(straight)
    assert read_json(stopped / "status.json")["state"] == "done"
    ours, reference = (read_weights(list_checkpoints(each)[0]) for each in (stopped, straight))
    assert ours.keys() == reference.keys()
    assert all(ours[name].equal(reference[name]) for name in ours)
    assert set(Path("/dev/shm").glob("deepspeed*")) <= shared


def wait_for_line(path: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not (path.is_file() and path.read_text().strip()):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)


def wait_for_state(run_dir: Path, state: str, seconds: float = 300) -> dict[str, Any]:
    """The launcher may exit before its workers."""
    end = time.monotonic() + seconds
    while (status := read_json(run_dir / "status.json")).get("state") != state:
        assert time.monotonic() < end, status
        time.sleep(0.1)
    return status


@pytest.mark.dist
def test_a_finished_run_is_left_alone_and_a_longer_one_resumes(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    settings = "scheduler=null,run.max_steps=4"
    assert train(0, "out", settings)[0] == 0
    run_dir = tmp_path / "out" / "case" / "main"
    before = (run_dir / "metrics.jsonl").stat().st_mtime_ns
    code, output = train(0, "out", settings)
    assert code == 0
    assert (run_dir / "metrics.jsonl").stat().st_mtime_ns == before
    assert "unigram baseline" in output
    assert "no effect" not in output
    code, output = train(0, "out", f"{settings},optimizer.params.lr=0.5")
    assert code == 0
    assert "no effect: optimizer.params.lr" in output
    assert (run_dir / "metrics.jsonl").stat().st_mtime_ns == before
    (tmp_path / "out" / "case" / "other").mkdir()
    (tmp_path / "out" / "case" / "other" / "case.json").write_text("{")
    code, output = train(0, "out", "scheduler=null,run.max_steps=6,optimizer.params.lr=0.003")
    assert code == 0
    assert "changed since the start: optimizer.params.lr" in output
    assert "32 sequences per step = 32 micro-batch x 1 accumulation x 1 ranks" in output
    assert "the report was not written" in output
    assert max(line["step"] for line in lines_of(run_dir)) == 6


@pytest.mark.dist
def test_a_profiled_run_writes_a_trace(tmp_path: Path, data_root: Path) -> None:
    """It has a trace of steps 5 to 7, and the metrics have the phases of a step."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    settings = f"{TINY},run.max_steps=8,run.log_every=4"
    code, output = run(0, *arguments(path, data_root, tmp_path / "out", settings), "--profile")
    assert code == 0, output
    run_dir = tmp_path / "out" / "case" / "main"
    names = [
        event.get("name")
        for event in json.loads((run_dir / "trace.json").read_text())["traceEvents"]
    ]
    assert {f"ProfilerStep#{number}" for number in (4, 5, 6)} <= set(names)
    assert "ProfilerStep#7" not in names
    for line in lines_of(run_dir):
        if "loss/train" in line:
            assert min(line[key] for key in ("forward", "backward", "update", "mfu")) > 0
            assert 0.1 < line["peak_memory"] < 100


@pytest.mark.dist
def test_a_failed_arm_is_recorded_and_the_next_is_tried(data_root: Path, tmp_path: Path) -> None:
    """It is non-finite from the second step on; its checkpoint is good."""
    arms = {"bad": {"optimizer": {"params": {"lr": 1e30}}}, "good": {}}
    case = {**BASE, "scheduler": None, "bertds": {**BASE["bertds"], "arms": arms}}
    (tmp_path / "case.json").write_text(json.dumps(case))
    settings = f"{TINY},run.max_steps=14,run.eval_every=14,run.save_every=1,run.keep_last=100"
    flags = arguments(tmp_path / "case.json", data_root, tmp_path / "out", settings)
    code, output = run(0, *flags)
    assert code == 71, output
    bad, good = (tmp_path / "out" / "case" / name for name in arms)
    status = read_json(bad / "status.json")
    assert (status["state"], status["code"]) == ("failed", 71)
    assert "non-finite loss or gradient" in status["message"]
    assert list_checkpoints(bad)
    for folder in list_checkpoints(bad):
        assert all(weight.isfinite().all() for weight in read_weights(folder).values())
    assert read_json(good / "status.json")["state"] == "done"
    assert "failed (71)" in (tmp_path / "out" / "case" / "record.md").read_text()


WRONG = {
    "flag": (["--ds_confg", "x.json"], "--ds_config"),
    "file": (["--ds_config", "ds_configs/case12x.json"], "case12x.json"),
    "arm": (["--ds_config", "ds_configs/case11.json", "--arm", "batch256"], "batch256_cosine"),
    "key": (["--ds_config", "ds_configs/case11.json", "--set", "run.max_step=3"], "max_steps"),
    "value": (["--ds_config", "ds_configs/case11.json", "--set", "run.seed=x"], "bertds.run.seed"),
    "data": (["--ds_config", "ds_configs/case11.json", "--data", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_message_and_writes_nothing(name: str, tmp_path: Path) -> None:
    flags, words = WRONG[name]
    flags = [str(ROOT / f) if f.startswith("ds_configs") else f for f in flags]
    code, output = run(0, *flags, "--out", str(tmp_path / "out"))
    said = [line for line in output.splitlines() if "WARNING" not in line]
    assert code in (2, 3)
    assert len(said) == 1, output
    assert words in said[0]
    assert not (tmp_path / "out").exists()


def link_sets(data_root: Path, root: Path) -> Path:
    """All names of shard sets in the case files, as links to the small ones."""
    for merges in ("50k", "30k", "20k", "10k", "5k"):
        for language in ("ko", "en"):
            for split in ("train", "valid"):
                target = root / merges / language / split
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(data_root / language, target)
    return root


@pytest.mark.dist
def test_a_case_trains_its_arms_and_writes_a_report(data_root: Path, tmp_path: Path) -> None:
    """Case 11 on two ranks: five arms, one of them a run of another case, one report."""
    data = link_sets(data_root, tmp_path / "data")
    settings = f'{TINY},data.train=[{{"name":"5k/en/train"}}]'
    path = ROOT / "ds_configs" / "case11.json"
    code, output = run(2, *arguments(path, data, tmp_path / "out", settings))
    assert code == 0, output
    record = (tmp_path / "out" / "case11" / "record.md").read_text()
    for arm in list_arms(path):
        assert arm.name in record
        assert read_json(tmp_path / "out" / arm.same_as / "status.json")["state"] == "done"
    assert (tmp_path / "out" / "case11" / "case11_loss.png").stat().st_size > 10_000


@pytest.mark.dist
def test_a_sweep_trains_every_point_and_is_finished_by_the_same_command(
    data_root: Path, tmp_path: Path
) -> None:
    data = link_sets(data_root, tmp_path / "data")
    path = ROOT / "ds_configs" / "case10.json"
    settings = f'{TINY},data.train=[{{"name":"5k/en/train"}}]'
    flags = [*arguments(path, data, tmp_path / "out", settings), "--arm", "lr5e-4_seed1"]
    flags += ["--sweep", "run.seed=0|1"]
    code, output = run(0, *flags)
    assert code == 0, output
    code, output = run(2, *flags[:-4], *flags[-2:], launcher="spawn")  # all arms: one is done
    assert code == 0, output
    runs = {each.parent.name for each in (tmp_path / "out/case10").glob("*/case.json")}
    assert runs == {f"lr5e-{rate}_seed{seed}" for rate in (4, 5) for seed in (0, 1)}
    seeds = [read_json(tmp_path / f"out/case10/{name}/case.json") for name in sorted(runs)]
    assert [each["config"]["bertds"]["run"]["seed"] for each in seeds] == [0, 1, 0, 1]
    assert all(name in (tmp_path / "out/case10/record.md").read_text() for name in runs)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", range(1, 12))
def test_every_arm_of_every_case_runs(
    number: int, processes: int, data_root: Path, tmp_path: Path
) -> None:
    data = link_sets(data_root, tmp_path / "data")
    path = ROOT / "ds_configs" / f"case{number}.json"
    settings = f"{TINY},train_batch_size=16" if number != 11 else TINY
    if number >= 10:
        settings += ',data.train=[{"name":"5k/en/train"}]'
    code, output = run(processes, *arguments(path, data, tmp_path / "out", settings), timeout=900)
    assert code == 0, output
    for arm in list_arms(path):
        assert read_json(tmp_path / "out" / arm.same_as / "status.json")["state"] == "done"
