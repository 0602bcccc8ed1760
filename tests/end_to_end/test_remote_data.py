"""Training over HTTP equals training from the local disk; a missing shard is code 3."""

import json
from pathlib import Path

import pytest
import torch

from bertds.data.shards.reader import ShardSet
from bertds.io.json_files import read_json
from tests.helpers.http_server import serving
from tests.helpers.in_process_training import BASE, train_here
from tests.helpers.launching import assert_trained_alike, run

# Dropout depends on the world size.
SAME = "model.hidden_dropout_prob=0,run.max_steps=6,run.save_every=6"


def arguments(tmp_path: Path, url: str) -> list[str]:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    flags = ["--ds_config", str(path), "--data", url, "--out", str(tmp_path / "remote")]
    return [*flags, "--set", f"{SAME},data.cache_dir={tmp_path}/cache"]


@pytest.mark.dist
def test_two_ranks_share_a_cache(tmp_path: Path, data_root: Path, device: torch.device) -> None:
    with serving(data_root) as server:
        server.faults["ko/shard-000000.tar"] = ["500", "reset", "slow"]
        code, output = run(2, *arguments(tmp_path, server.url), launcher="spawn")
    assert code == 0, output
    tars = {path: count for path, count in server.requests.items() if path.endswith(".tar")}
    shards = [
        f"{name}/{shard.name}"
        for name in ("ko", "en")
        for shard in ShardSet.open(data_root / name).index.shards
    ]
    assert tars == dict.fromkeys(shards, 1) | {"ko/shard-000000.tar": 3}
    assert train_here(data_root, tmp_path / "local", device, SAME) == 0
    assert_trained_alike(tmp_path / "remote/case/main", tmp_path / "local/case/main")


@pytest.mark.dist
def test_a_missing_remote_shard_ends_the_run(tmp_path: Path, data_root: Path) -> None:
    with serving(data_root) as server:
        server.faults["en/shard-000001.tar"] = ["404"] * 20
        code, output = run(0, *arguments(tmp_path, server.url))
    assert code == 3
    sentence = f"{server.url}/en/shard-000001.tar: it is missing; make or copy"
    assert sum(sentence in line for line in output.splitlines()) == 1
    assert "Traceback" not in output
    status = read_json(tmp_path / "remote/case/main/status.json")
    assert (status["state"], status["code"]) == ("failed", 3)
