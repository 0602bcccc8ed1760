"""The job files under a real Slurm: training on two nodes, signals, requeues, arrays, data_prep."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertds.config.case import list_arms
from bertds.io.json_files import read_json
from tests.helpers.launching import ROOT, assert_trained_alike, lines_of, run
from tests.helpers.slurm_cluster import SlurmCluster, missing
from tests.launch.test_train import BASE, TINY, arguments, link_sets, wait_for_line, wait_for_state

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
JOB = str(ROOT / "launch" / "slurm" / "train.sbatch")


# Options for this machine, which has no GPU.
SMALL = ("--gpus-per-node=0", "--cpus-per-task=1")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def case(tmp_path: Path) -> Path:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    return path


def output_of(directory: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(directory.glob("job-*.log")))


def submit(slurm: SlurmCluster, directory: Path, options: list[str], train: list[str]) -> str:
    return slurm.submit(*SMALL, f"--output={directory}/job-%j.log", *options, JOB, *train)


def test_a_job_on_two_nodes_equals_one_process(
    slurm: SlurmCluster, case: Path, data_root: Path, tmp_path: Path
) -> None:
    settings = "model.hidden_dropout_prob=0.0,run.max_steps=8,run.eval_every=8"
    nodes = ["--nodes=2", "--ntasks-per-node=1"]
    job = submit(slurm, tmp_path, nodes, arguments(case, data_root, tmp_path / "out", settings))
    slurm.wait_for_job(job)
    run_dir = tmp_path / "out" / "case" / "main"
    assert read_json(run_dir / "status.json").get("state") == "done", output_of(tmp_path)
    assert read_json(run_dir / "case.json")["resolved"]["world_size"] == 2
    code, output = run(0, *arguments(case, data_root, tmp_path / "alone", settings))
    assert code == 0, output
    assert_trained_alike(run_dir, tmp_path / "alone" / "case" / "main")


def test_a_signal_saves_and_the_job_is_requeued(
    slurm: SlurmCluster, case: Path, data_root: Path, tmp_path: Path
) -> None:
    settings = "run.max_steps=1500,run.eval_every=1500,run.save_every=300"
    nodes = ["--nodes=2", "--ntasks-per-node=1"]
    job = submit(slurm, tmp_path, nodes, arguments(case, data_root, tmp_path / "out", settings))
    run_dir = tmp_path / "out" / "case" / "main"
    wait_for_line(run_dir / "metrics.jsonl")
    slurm.ask("scancel", "--signal=USR1", job)
    stopped = wait_for_state(run_dir, "pre-empted")
    assert 0 < stopped["step"] < 1500
    wait_for_state(run_dir, "done")
    slurm.wait_for_job(job)
    assert slurm.facts(job)["Restarts"] == "1"
    assert f"resuming from step {stopped['step']}" in output_of(tmp_path)
    steps = [line["step"] for line in lines_of(run_dir) if "loss/train" in line]
    assert steps == list(range(1, 1501))


def test_the_time_limit_saves_and_the_job_is_requeued(
    slurm: SlurmCluster, case: Path, data_root: Path, tmp_path: Path
) -> None:
    """Slurm may send the signal a minute early, so the limit leaves time to start."""
    settings = "run.max_steps=1000000,scheduler=null,run.save_every=1000000,run.eval_every=1000000"
    limit = ["--nodes=2", "--ntasks-per-node=1", "--time=3", "--signal=USR1@50"]
    job = submit(slurm, tmp_path, limit, arguments(case, data_root, tmp_path / "out", settings))
    run_dir = tmp_path / "out" / "case" / "main"
    stopped = wait_for_state(run_dir, "pre-empted", 600)
    wait_for_state(run_dir, "running", 300)
    assert f"resuming from step {stopped['step']}" in output_of(tmp_path)
    assert slurm.facts(job)["Restarts"] == "1"
    slurm.ask("scancel", job)
    slurm.wait_for_job(job)


def test_an_array_trains_the_arms_of_case_11_in_parallel(
    slurm: SlurmCluster, data_root: Path, tmp_path: Path
) -> None:
    data = link_sets(data_root, tmp_path / "data")
    path = ROOT / "ds_configs" / "case11.json"
    settings = f'{TINY},data.train=[{{"name":"5k/en/train"}}]'
    array = ["--array=0-3", "--nodes=1", "--ntasks-per-node=1"]
    job = submit(slurm, tmp_path, array, arguments(path, data, tmp_path / "out", settings))
    slurm.wait_for_job(job)
    arms = list_arms(path)
    for arm in arms[:4]:
        status = read_json(tmp_path / "out" / arm.same_as / "status.json")
        assert status.get("state") == "done", output_of(tmp_path)
    starts = [slurm.facts(f"{job}_{task}")["StartTime"] for task in range(4)]
    assert max(starts) < min(slurm.facts(f"{job}_{task}")["EndTime"] for task in range(4))
    case_dir = tmp_path / "out" / "case11"
    subprocess.run([sys.executable, "-m", "bertds", "report", str(case_dir)], cwd=ROOT, check=True)
    record = (case_dir / "record.md").read_text()
    assert all(arm.name in record for arm in arms[:4])
    assert (case_dir / "case11_loss.png").stat().st_size > 10_000


def test_data_prep_writes_the_same_bytes_as_one_machine(
    slurm: SlurmCluster, lines: dict[str, list[str]], tmp_path: Path
) -> None:
    text, vocabulary = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    text.write_text("\n".join([*lines["ko"], *lines["en"]]) + "\n")
    make = ["tokenizer", "--input", str(text), "--merges", "100", "--out", str(vocabulary)]
    subprocess.run([sys.executable, "-m", "data_prep", *make], cwd=ROOT, check=True)
    command = ["shard", "--input", str(text), "--tokenizer", str(vocabulary), "--out"]
    job = slurm.submit(
        "--cpus-per-task=2",
        f"--output={tmp_path}/job-%j.log",
        str(ROOT / "launch" / "slurm" / "data_prep.sbatch"),
        *command,
        str(tmp_path / "slurm"),
    )
    slurm.wait_for_job(job)
    alone = [sys.executable, "-m", "data_prep", *command, str(tmp_path / "alone")]
    subprocess.run(alone, cwd=ROOT, check=True)
    names = [path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.tar")]
    assert names
    for name in names:
        assert (tmp_path / "slurm" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
