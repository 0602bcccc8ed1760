"""The Kubernetes files: their schemas, and their containers' scripts as two torchrun nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api import models

from bertds.io.json_files import read_json
from tests.helpers.launching import ROOT, assert_trained_alike, environment, free_port, run
from tests.launch.test_train import BASE, arguments, wait_for_line

FILES = ROOT / "launch" / "k8s"
SCHEMAS: dict[str, Any] = {
    "TrainJob": models.TrainerV1alpha1TrainJob,
    "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
    "Job": models.IoK8sApiBatchV1Job,
}


def documents(name: str) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((FILES / name).read_text())}


def unknown_keys(given: Any, known: Any, path: str = "") -> list[str]:
    """The keys that the schema's model dropped."""
    if isinstance(given, dict):
        lost = [f"{path}.{key}" for key in given if key not in known]
        inner = [unknown_keys(given[k], known[k], f"{path}.{k}") for k in given if k in known]
        return lost + [each for found in inner for each in found]
    if isinstance(given, list):
        pairs = zip(given, known, strict=True)
        return [each for a, b in pairs for each in unknown_keys(a, b, path)]
    return []


def assert_valid(document: dict[str, Any]) -> None:
    parsed = SCHEMAS[document["kind"]].from_dict(document)
    assert unknown_keys(document, parsed.to_dict()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train.yaml", "TrainJob"),
        ("train.yaml", "TrainingRuntime"),
        ("data_prep.yaml", "Job"),
    ],
)
def test_a_manifest_matches_its_published_schema(name: str, kind: str) -> None:
    assert_valid(documents(name)[kind])


def test_the_schema_check_finds_misspelt_keys_and_wrong_types() -> None:
    job = documents("train.yaml")["TrainJob"]
    trainer = job["spec"]["trainer"]
    with pytest.raises(AssertionError, match="numNode"):
        assert_valid({**job, "spec": {**job["spec"], "trainer": {**trainer, "numNode": 4}}})
    with pytest.raises(ValueError, match="numNodes"):
        assert_valid({**job, "spec": {**job["spec"], "trainer": {**trainer, "numNodes": "4"}}})


def test_manifests_refer_to_one_another() -> None:
    found = documents("train.yaml")
    runtime, job = found["TrainingRuntime"], found["TrainJob"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    # Kubeflow's torch policy looks for these names.
    assert (replicated["name"], container["name"]) == ("node", "node")
    (code_rule, _) = replicated["template"]["spec"]["podFailurePolicy"]["rules"]
    assert code_rule["onExitCodes"]["containerName"] == "node"
    for each in (job["spec"]["trainer"], container):
        assert Path(ROOT, each["command"][1]).is_file()
    volumes = {each["name"] for each in pod["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    assert (ROOT / job["spec"]["trainer"]["args"][0].partition("=")[2]).is_file()


def test_data_prep_workers_find_pod_0() -> None:
    found = documents("data_prep.yaml")
    service, job = found["Service"], found["Job"]
    pod = job["spec"]["template"]
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    host = {each["name"]: each["value"] for each in container["env"]}["SCHEDULER_HOST"]
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}"


def test_the_image_contains_what_it_copies_and_runs() -> None:
    lines = (FILES / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert {"bertds", "data_prep", "launch", "ds_configs", "pyproject.toml"} <= set(copied)


def node(rank: int, port: int, *words: str) -> subprocess.Popen[bytes]:
    """Start a pod's container as Kubeflow's torch policy does."""
    variables = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }
    (command,) = [documents("train.yaml")["TrainJob"]["spec"]["trainer"]["command"]]
    return subprocess.Popen(
        [*command, *words], cwd=ROOT, env=environment() | variables, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.dist
def test_two_nodes_equal_one_process_and_resume_after_an_eviction(
    data_root: Path, tmp_path: Path
) -> None:
    case = tmp_path / "case.json"
    case.write_text(json.dumps(BASE))
    settings = "run.max_steps=120,run.eval_every=60,run.log_every=1,model.hidden_dropout_prob=0.0"
    words = arguments(case, data_root, tmp_path / "two", settings)
    run_dir, port = tmp_path / "two" / "case" / "main", free_port()
    nodes = [node(rank, port, *words) for rank in range(2)]
    wait_for_line(run_dir / "metrics.jsonl")
    nodes[1].send_signal(signal.SIGTERM)  # as in an eviction: the container's first process gets it
    assert [each.wait(timeout=300) for each in nodes] == [75, 75]
    assert read_json(run_dir / "status.json")["state"] == "pre-empted"
    port = free_port()
    nodes = [node(rank, port, *words) for rank in range(2)]
    assert [each.wait(timeout=300) for each in nodes] == [0, 0]
    code, output = run(0, *arguments(case, data_root, tmp_path / "one", settings))
    assert code == 0, output
    assert_trained_alike(run_dir, tmp_path / "one" / "case" / "main")


@pytest.mark.dist
def test_a_failure_that_a_restart_cannot_fix_is_not_75(tmp_path: Path) -> None:
    alone = environment() | {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "1"}
    done = subprocess.run(
        ["/bin/bash", "launch/k8s/train.sh", "--ds_config=nowhere.json", f"--out={tmp_path}"],
        cwd=ROOT,
        env=alone,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode not in (0, 75)
    assert "nowhere.json is not a file" in done.stderr


@pytest.mark.slow
def test_pods_prepare_the_same_shards_as_one_machine(tmp_path: Path) -> None:
    text, tokenizer, port = tmp_path / "text.txt", tmp_path / "tokenizer.json", free_port()
    data_prep = [sys.executable, "-m", "data_prep"]
    subprocess.run([*data_prep, "sample", f"--out={tmp_path}", "--sentences=2000"], check=True)
    text.write_text((tmp_path / "ko.txt").read_text() + (tmp_path / "en.txt").read_text())
    subprocess.run(
        [*data_prep, "tokenizer", f"--input={text}", "--merges=200", f"--out={tokenizer}"],
        check=True,
    )
    words = [f"--input={text}", f"--tokenizer={tokenizer}"]

    def pod(index: int) -> subprocess.Popen[bytes]:
        variables = {
            "JOB_COMPLETION_INDEX": str(index),
            "SCHEDULER_HOST": "127.0.0.1",
            "SCHEDULER_PORT": str(port),
            "SCHEDULER_BIND": "127.0.0.1",
            "WORKERS": "1",
        }
        command = documents("data_prep.yaml")["Job"]["spec"]["template"]["spec"]["containers"][0]
        return subprocess.Popen(
            [*command["command"], *words, f"--out={tmp_path / 'pods'}"],
            cwd=ROOT,
            env=environment() | variables,
            start_new_session=True,
        )

    pods = [pod(index) for index in (1, 0)]  # the worker waits for the scheduler
    try:
        time.sleep(10)
        os.killpg(pods[1].pid, signal.SIGKILL)  # as in an eviction; another pod replaces it
        pods[1].wait()
        pods[1] = pod(0)
        assert pods[1].wait(timeout=300) == 0
        assert pods[0].poll() is None
    finally:
        for each in pods:
            each.send_signal(signal.SIGTERM)
            each.wait(timeout=60)
    assert pods[0].returncode == 143
    subprocess.run([*data_prep, "shard", *words, f"--out={tmp_path / 'one'}"], check=True)
    files = sorted(path.name for path in (tmp_path / "one" / "train").iterdir())
    assert "shard-000000.tar" in files
    for name in files:
        ours, theirs = (tmp_path / out / "train" / name for out in ("pods", "one"))
        assert ours.read_bytes() == theirs.read_bytes()
