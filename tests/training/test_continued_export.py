"""A continued model loses nothing: its export computes the same, and has all that was in the source."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertds.config.presets import PRESETS
from bertds.inference.export import export
from bertds.runs.trained_run import TrainedRun
from tests.helpers.hub_models import MODELS, SIZES, save_model
from tests.helpers.launching import ROOT, run
from tests.helpers.same_outputs import check_same_outputs
from tests.helpers.trained_runs import CASE

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def sources(tokenizer, tmp_path_factory) -> dict[str, Path]:
    """A small random model of each class, as `save_pretrained` writes it."""
    root = tmp_path_factory.mktemp("hub")
    return {name: save_model(tokenizer, root / name, name) for name in MODELS}


@pytest.fixture(scope="module")
def run_dirs(sources, data_root, tmp_path_factory) -> dict[str, Path]:
    """Each model continued twice: with a learning rate too small to change it, and really."""
    root = tmp_path_factory.mktemp("continued")
    still = {"optimizer": {"params": {"lr": 1e-30, "weight_decay": 0}}}
    arms = {}
    for name, source in sources.items():
        block = {"model": model_block(name), "run": {"init_from": str(source)}}
        arms[f"{name}_still"] = {"bertds": block, **still}
        arms[name] = {"bertds": block}
    block = CASE["bertds"]
    lengths = {"max_steps": 10, "eval_every": 10, "save_every": 10, "eval_at_start": False}
    block = {**block, "model": {}, "arms": arms, "run": {**block["run"], **lengths}}
    block["run"]["no_decay"] = ["bias", "norm", "embedding"]
    (root / "case.json").write_text(json.dumps({**CASE, "bertds": block}))
    flags = ["--ds_config", root / "case.json", "--data", data_root, "--out", root / "out"]
    code, output = run(0, *map(str, flags), launcher="spawn")
    assert code == 0, output
    assert "no head for masked tokens: a new one starts from random weights" in output
    assert (
        "copied into an export: bert.pooler.dense.bias, bert.pooler.dense.weight, cls.seq" in output
    )
    return {name: root / "out" / "case" / name for name in arms}


def model_block(name: str) -> dict[str, Any]:
    _, preset, options = MODELS[name]
    keys = ("type_vocab_size", "local_attention")
    block = {key: options[key] for key in keys if key in options}
    return {**SIZES, "max_position_embeddings": 96, "preset": preset, **block}


def exported(run_dir: Path, out: Path) -> Path:
    export(TrainedRun.open(run_dir, "latest"), out)
    return out


@pytest.mark.parametrize("name", MODELS)
def test_an_export_of_unchanged_weights_equals_the_source(sources, run_dirs, tmp_path, name):
    """For single texts and pairs: ids, token types and outputs."""
    out = exported(run_dirs[f"{name}_still"], tmp_path / "out")
    types = check_same_outputs(sources[name], out)
    assert any(types)  # the second text of each pair


@pytest.mark.slow
@pytest.mark.parametrize("version", ["4.48.3", "4.57.6"])
def test_it_does_so_with_other_transformers_versions(sources, run_dirs, tmp_path, version):
    """Needs PyPI when it first runs. 4.48 is the first with ModernBERT, 4.57 the last before 5."""
    directory = packages_with(f"transformers=={version}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (directory, ROOT)))}
    for name in MODELS:
        out = exported(run_dirs[f"{name}_still"], tmp_path / name)
        command = [sys.executable, "-m", "tests.helpers.same_outputs", sources[name], out]
        found = subprocess.check_output(command, text=True, env=environment, cwd=ROOT)
        assert found.endswith(f"same outputs with transformers {version}\n")


def packages_with(requirement: str) -> Path:
    """A directory with a package and what it needs, installed once; torch is that of the tests."""
    directory = ROOT / ".cache" / requirement
    marker = directory / "installed"
    if not marker.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", directory, requirement]
        subprocess.run(command, check=True)
        marker.touch()
    return directory


@pytest.mark.parametrize("name", MODELS)
def test_an_export_has_all_that_was_in_the_source(sources, run_dirs, tmp_path, name):
    source, out = sources[name], exported(run_dirs[name], tmp_path / "out")
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, out))
    class_of = {"bert": "BertForMaskedLM", "bare_bert": "BertForMaskedLM"}
    assert after.pop("architectures") == [class_of.get(name, MODELS[name][0])]
    before.pop("architectures")
    assert after == before
    for file in source.iterdir():
        if "tokenizer" in file.name:
            assert (out / file.name).read_bytes() == file.read_bytes()
    theirs, ours = (load_file(path / "model.safetensors") for path in (source, out))
    if name == "bare_bert":
        theirs = {f"bert.{key}": tensor for key, tensor in theirs.items()}
    assert not theirs.keys() - ours.keys()
    for key, tensor in theirs.items():
        is_unplaced = "pooler" in key or "seq_relationship" in key
        first = 64 if "position_embeddings" in key else 1 if "token_type" in key else 0
        if PRESETS[MODELS[name][1]].counts_positions_from_pad and "position_embeddings" in key:
            first += 1
        assert torch.equal(ours[key], tensor) == is_unplaced, key
        # Training reads positions up to its longest sequence, and the first token type.
        if first:
            assert torch.equal(ours[key][first:], tensor[first:]), key
