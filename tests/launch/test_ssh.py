"""DeepSpeed's launcher over ssh: hosts that share only the output directory."""

import gzip
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertds.checkpoint.directory import list_checkpoints
from bertds.io.json_files import read_json
from tests.helpers.launching import ROOT, assert_trained_alike, lines_of, run
from tests.helpers.network_namespaces import Hosts, missing
from tests.launch.test_train import BASE, arguments, wait_for_line

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets `ko` and `en` from a few thousand lines of the real corpus."""
    root = tmp_path_factory.mktemp("shards")
    texts = []
    for language in ("ko", "en"):
        with gzip.open(corpus / f"{language}.train.txt.gz", "rt", encoding="utf-8") as lines:
            text = root / f"{language}.txt"
            text.write_text("".join(itertools.islice(lines, 5000)), encoding="utf-8")
            texts.append(text)
    vocabulary = root / "tokenizer.json"
    made = ["--input", ",".join(map(str, texts)), "--merges", "500", "--out", str(vocabulary)]
    _data_prep("tokenizer", *made)
    for text in texts:
        source = ["--input", str(text), "--tokenizer", str(vocabulary), "--seq_len", "64"]
        _data_prep("shard", *source, "--valid_fraction", "0", "--out", str(root / text.stem))
        (root / text.stem / "train").rename(root / "set")
        shutil.rmtree(root / text.stem)
        (root / "set").rename(root / text.stem)
    return root


def _data_prep(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "data_prep", *command], cwd=ROOT, check=True)


def give_each_its_data(hosts: Hosts, shards: Path) -> None:
    for host in range(len(hosts.addresses)):
        for name in ("ko", "en"):
            shutil.copytree(shards / name, hosts.own_data(host) / name)


@pytest.mark.parametrize("number", [2, 4])
def test_two_hosts_equal_one_process(number: int, shards: Path, tmp_path: Path) -> None:
    case = tmp_path / "case.json"
    case.write_text(json.dumps(BASE))
    settings = "model.hidden_dropout_prob=0.0,run.max_steps=8,run.eval_every=8"
    with Hosts(tmp_path, number) as hosts:
        give_each_its_data(hosts, shards)
        train = arguments(case, hosts.data, tmp_path / "out", settings)
        process = hosts.deepspeed(number, *train)
        process.wait(timeout=600)
        assert process.returncode == 0, hosts.output()
        assert all(f"{address}:" in hosts.output() for address in hosts.addresses)
        assert not any(hosts.data.iterdir())  # only the mounts of the hosts
    run_dir = tmp_path / "out" / "case" / "main"
    assert read_json(run_dir / "case.json")["resolved"]["world_size"] == number
    code, output = run(0, *arguments(case, shards, tmp_path / "alone", settings))
    assert code == 0, output
    assert_trained_alike(run_dir, tmp_path / "alone" / "case" / "main")


def test_a_lost_host_ends_the_others_which_resume(shards: Path, tmp_path: Path) -> None:
    case = tmp_path / "case.json"
    case.write_text(json.dumps(BASE))
    endless = f"run.collective_timeout_s={TIMEOUT_S},run.save_every=20,scheduler=null"
    run_dir = tmp_path / "out" / "case" / "main"
    with Hosts(tmp_path, 2) as hosts:
        give_each_its_data(hosts, shards)
        train = arguments(case, hosts.data, tmp_path / "out", f"{endless},run.max_steps=100000")
        process = hosts.deepspeed(2, *train)
        wait_for_line(run_dir / "checkpoints" / "latest")
        hosts.lose(1)
        lost = time.monotonic()
        process.wait(timeout=300)
        while hosts.trainers(0):
            assert time.monotonic() < lost + 300, hosts.output()
            time.sleep(0.2)
        seconds = time.monotonic() - lost
        assert process.returncode != 0
        assert "rank 0 on h0 lost the connection to another rank" in hosts.output()
        assert seconds < TIMEOUT_S + 40
        saved = int(list_checkpoints(run_dir)[0].name[5:])
        settings = f"{endless},run.max_steps={saved + 20}"
        again = hosts.deepspeed(1, *arguments(case, hosts.data, tmp_path / "out", settings))
        again.wait(timeout=600)
        assert again.returncode == 0, hosts.output()
        assert f"resuming from step {saved}" in hosts.output()
    assert read_json(run_dir / "case.json")["resolved"]["world_size"] == 1
    steps = [line["step"] for line in lines_of(run_dir) if "loss/train" in line]
    assert steps == list(range(1, saved + 21))
