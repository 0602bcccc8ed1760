"""An intact checkpoint of another version is rejected with an error message, code 4."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertds.checkpoint.directory import list_checkpoints
from bertds.errors import CheckpointError
from tests.helpers.in_process_training import train_here

Saved = dict[str, Any]
CHANGES: dict[str, tuple[Callable[[Saved], Any], str]] = {
    "a key of the future": (lambda s: s["state"].update(colour=1), "colour, which this version"),
    "sums of the future": (lambda s: s["state"]["since_log"].update(colour=1), "colour"),
    "no sums": (lambda s: s["state"].pop("since_log"), "since_log"),
    "a skip of another form": (lambda s: s["state"].update(skips=[[1]]), "state.json"),
    "no state": (lambda s: s.pop("state"), "lacks state"),
    "no progress": (lambda s: s["progress"].pop("counters"), "lacks counters"),
    "no optimizer": (lambda s: s.update(optimizer=3), "lacks optimizer"),
}


def rewrite(folder: Path, change: Callable[[Saved], Any]) -> None:
    """Change the content of a checkpoint, including its hashes."""
    file, manifest_file = folder / "state.json", folder / "manifest.json"
    saved = json.loads(file.read_text())
    change(saved)
    file.write_text(json.dumps(saved))
    manifest = json.loads(manifest_file.read_text())
    del manifest["sha256"]
    content = file.read_bytes()
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["state.json"] = facts
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    manifest_file.write_text(json.dumps(manifest | {"sha256": digest}))


def test_unknown_or_missing_content_is_named(
    device: torch.device, data_root: Path, tmp_path: Path
) -> None:
    settings = "scheduler=null,data.valid={},run.max_steps"
    assert train_here(data_root, tmp_path, device, f"{settings}=1") == 0
    folder = list_checkpoints(tmp_path / "case" / "main")[0]
    before = [(folder / name).read_bytes() for name in ("state.json", "manifest.json")]
    for change, words in CHANGES.values():
        rewrite(folder, change)
        with pytest.raises(CheckpointError) as refused:
            train_here(data_root, tmp_path, device, f"{settings}=2")
        assert words in str(refused.value)
        assert refused.value.code == 4
        for name, content in zip(("state.json", "manifest.json"), before, strict=True):
            (folder / name).write_bytes(content)
    assert train_here(data_root, tmp_path, device, f"{settings}=2") == 0
