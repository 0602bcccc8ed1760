"""`run.branch_from`: a run begins with a checkpoint of another run, which is only read."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bertds.checkpoint.directory import (
    checkpoint_path,
    list_checkpoints,
    open_checkpoint,
    resolve_pointer,
    step_of,
)
from bertds.checkpoint.tensor_files import FragmentReader
from bertds.config.case import list_arms, read_case
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.errors import CheckpointError, ConfigError
from bertds.io.json_files import read_json
from bertds.runs.sweeps import write_swept_case
from bertds.training.case_check import read_cases
from bertds.training.session import Session
from bertds.training.setup import prepare_runs
from tests.engine.test_nonfinite_steps import bad_lines, spoilt
from tests.helpers.in_process_training import BASE, train_here
from tests.helpers.launching import figures_of, lines_of
from tests.helpers.weights import read_weights

# Twelve steps; checkpoints of the steps 4, 8 and 12, of which 4 and 8 are multiples of keep_every.
TRUNK = "run.keep_every=4,run.keep_last=1,run.eval_every=4,data.valid.ko.fraction=0.05"


@pytest.fixture(scope="module")
def trunk(data_root: Path, tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Path:
    """A run directory that tests branch from."""
    out = tmp_path_factory.mktemp("trunk")
    assert train_here(data_root, out, device, TRUNK) == 0
    return out / "case" / "main"


@pytest.fixture
def told(told: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Captures messages that are no warnings as well."""
    told.set_level("INFO", logger="bertds")
    return told


@pytest.fixture
def branch(
    trunk: Path, data_root: Path, tmp_path: Path, device: torch.device
) -> Callable[[str], Path]:
    """Trains a branch of the trunk from step 8 on; returns its run directory."""

    def train(settings: str = "") -> Path:
        at = f"run.branch_from={trunk}@8"
        assert train_here(data_root, tmp_path, device, f"{TRUNK},{at}{settings}") == 0
        return tmp_path / "case" / "main"

    return train


def tensors_of(run_dir: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of the newest checkpoint."""
    checkpoint = open_checkpoint(list_checkpoints(run_dir)[0])
    tensors = {}
    with FragmentReader(checkpoint.tensor_files) as reader:
        for name, shape in checkpoint.manifest["parameters"].items():
            for kind in sorted(reader.kinds(name)):
                tensors[f"{kind} {name}"] = torch.empty(shape)
                reader.read_into(kind, name, 0, tensors[f"{kind} {name}"].view(-1))
    assert any(key.startswith("exp_avg_sq ") for key in tensors)
    return tensors


def assert_same_state(run_dir: Path, reference: Path) -> None:
    """Weights and moments are bitwise equal."""
    ours, expected = tensors_of(run_dir), tensors_of(reference)
    assert ours.keys() == expected.keys()
    assert all(ours[name].equal(expected[name]) for name in expected)


def after(run_dir: Path, step: int) -> list[dict[str, Any]]:
    return [line for line in figures_of(run_dir) if line["step"] > step]


def snapshot(directory: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of every file."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@contextmanager
def failing_before(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends a run like a crash before it makes a step, counted from 1."""
    train_step: Any = Engine.train_step

    def failing(engine: Engine, packs: Any, number: int, **keys: Any) -> Any:
        if number + 1 == step:
            raise KeyboardInterrupt
        return train_step(engine, packs, number, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_step", failing)
        yield


def test_a_branch_without_changes_is_its_trunk(
    trunk: Path, branch: Callable[[str], Path], told: pytest.LogCaptureFixture
) -> None:
    """Also with dropout: metrics, weights and moments are bitwise equal; the trunk is only read."""
    (trunk / "checkpoints/best").unlink(missing_ok=True)  # a resume would write it again
    before = snapshot(trunk)
    run_dir = branch()
    assert snapshot(trunk) == before
    assert read_json(run_dir / "case.json")["config"]["bertds"]["model"] == BASE["bertds"]["model"]
    assert figures_of(run_dir) == after(trunk, 8) != []
    assert_same_state(run_dir, trunk)
    assert f"branch of {trunk} at step 8" in told.text
    assert resolve_pointer(run_dir, "best") == checkpoint_path(run_dir, 12)
    record = read_json(run_dir / "case.json")["resolved"]["branch"]
    assert (record["run"], record["step"]) == ("case/main", 8)
    assert (run_dir / record["directory"]).resolve() == trunk.resolve()
    assert any(b"custom_scalars" in path.read_bytes() for path in (run_dir / "tb").iterdir())
    # The time counts on, as tokens and epochs do.
    (at_8,) = [line for line in lines_of(trunk) if line["step"] == 8 and "loss/valid" in line]
    assert record["seconds"] == at_8["seconds"] < lines_of(run_dir)[0]["seconds"]


def test_a_schedule_in_absolute_steps_goes_on_at_the_trunks_step(
    trunk: Path, branch: Callable[[str], Path], told: pytest.LogCaptureFixture
) -> None:
    """A cooldown to step 10: the rate of steps 9 and 10, the first of which is the peak."""
    scheduler = {
        "type": "WarmupStableDecayLR",
        "params": {"warmup_num_steps": 4, "stable_num_steps": 4, "decay_type": "linear"},
    }
    run_dir = branch(f",run.max_steps=10,scheduler={json.dumps(scheduler)}")
    trained = [line for line in figures_of(run_dir) if "lr" in line]
    assert [(line["step"], line["lr"]) for line in trained] == [(9, 2e-3), (10, 1e-3)]
    # The same batch and the same weights; the update differs.
    assert trained[0]["loss/train"] == after(trunk, 8)[0]["loss/train"]
    assert trained[1]["loss/train"] != after(trunk, 9)[0]["loss/train"]
    assert 'differs from there: scheduler.type: "WarmupCosineLR" -> "WarmupStableDec' in told.text
    assert "the learning rate rises" in told.text


def test_the_best_checkpoint_is_one_of_the_branch(branch: Callable[[str], Path]) -> None:
    """Also if it is no better than the trunk: this rate changes no weight."""
    run_dir = branch(",run.max_steps=9,optimizer.params.lr=1e-30")
    assert resolve_pointer(run_dir, "best") == checkpoint_path(run_dir, 9)


def test_a_validation_set_of_longer_sequences_may_be_added(
    trunk: Path, data_root: Path, tmp_path: Path, device: torch.device, write_shards: Any
) -> None:
    """The rows of training batches stay as long as those of the trunk."""
    data = tmp_path / "data"
    shutil.copytree(data_root, data)
    rows = [[9 + i % 50 for i in range(64)]] * 3
    write_shards(data / "long", rows, set_key=77, block_sequences=(3,))
    settings = f"{TRUNK},data.valid.two.name=long,run.branch_from={trunk}@8"
    assert train_here(data, tmp_path, device, settings) == 0
    ours, reference = (
        [line for line in lines if "loss/train" in line]
        for lines in (figures_of(tmp_path / "case/main"), after(trunk, 8))
    )
    assert ours == reference
    assert_same_state(tmp_path / "case/main", trunk)


def test_a_loss_spike_leads_back_to_the_trunk(
    branch: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
) -> None:
    """The branch has no checkpoint of its own at step 11, whose loss is the spike."""
    guard = ",run.spike_sigmas=20,run.spike_window=2,run.spike_skip=1,run.keep_every=99"
    with spoilt(monkeypatch, {10}, 1000.0):
        branch(guard)
    assert [line["step"] for line in bad_lines(tmp_path)] == [10, 11, 12]
    assert [message.startswith("branch of") for message in told.messages].count(True) == 2


def test_a_killed_branch_resumes_from_its_own_checkpoints(
    trunk: Path,
    branch: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
) -> None:
    """Without one it begins again at its trunk; with one it needs the trunk no more."""
    copy, settings = tmp_path / "copy", ",run.save_every=2"
    shutil.copytree(trunk, copy)
    settings += f",run.branch_from={copy}@8"
    for step in (10, 11, 12):  # the first checkpoint is of step 10
        told.clear()
        with failing_before(step, monkeypatch), pytest.raises(KeyboardInterrupt):
            branch(settings)
        assert ("branch of" in told.text) == (step < 12)
    shutil.rmtree(copy)
    run_dir = branch(settings)
    assert "resuming from step 10" in told.text
    assert figures_of(run_dir) == after(trunk, 8)
    assert_same_state(run_dir, trunk)
    assert read_json(run_dir / "case.json")["resolved"]["branch"]["step"] == 8


def test_a_branch_of_two_ranks_goes_on_with_one(
    run_dirs: dict[str, Path], data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """As a resume does: the trunk has two ranks at stage 2, the branch has one at stage 1.

    The rate is too small to change a weight, so the last checkpoint has the weights of step 3.
    """
    trunk = run_dirs["prenorm_of_two"]
    content = read_json(trunk / "case.json")["config"]
    content["zero_optimization"] = {"stage": 1}
    content["optimizer"]["params"] |= {"lr": 1e-30, "weight_decay": 0}
    content["bertds"]["run"] |= {"branch_from": f"{trunk}@3", "max_steps": 4}
    path = tmp_path / "case.json"
    path.write_text(json.dumps(content))
    (run,) = prepare_runs([read_case(path, "main")], data_root, tmp_path, World())
    assert Session(World(), device).train(run) == 0
    weights, expected = (
        read_weights(checkpoint_path(*each)) for each in ((run.run_dir, 4), (trunk, 3))
    )
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-25)
    (loss,) = [line["loss/valid"] for line in lines_of(run.run_dir) if "loss/valid" in line]
    (before,) = [
        line["loss/valid"] for line in lines_of(trunk) if "loss/valid" in line and line["step"] == 3
    ]
    assert loss == pytest.approx(before, rel=1e-5)


WSD = {"warmup_num_steps": 2, "stable_num_steps": 2}


def test_one_command_trains_a_trunk_and_its_branches(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """Arms of a case, the trunk first; then cooldowns of three lengths as one sweep."""
    out, path = tmp_path / "runs", tmp_path / "wsd.json"
    at = f"{out}/wsd/trunk@4"
    arms = {
        "trunk": {"scheduler": None, "bertds": {"run": {"keep_every": 2}}},
        "cooldown": {
            "scheduler": {"type": "WarmupStableDecayLR", "params": WSD},
            "bertds": {"run": {"branch_from": at, "max_steps": 5}},
        },
    }
    run = BASE["bertds"]["run"] | {"max_steps": 6, "save_every": 6}
    content = BASE | {"bertds": {**BASE["bertds"], "run": run, "arms": arms}}
    path.write_text(json.dumps(content))

    def train(path: Path, settings: str = "") -> None:
        cases = read_cases([(arm.path, arm.run_arm) for arm in list_arms(path)], settings)
        runs = prepare_runs(cases, data_root, out, World())
        assert Session(World(), device).train_all(runs) == 0

    train(path)
    trunk, cooldown = (out / "wsd" / arm for arm in arms)
    assert [step_of(each) for each in list_checkpoints(trunk)] == [6, 4, 2]
    assert [line["step"] for line in lines_of(cooldown) if "lr" in line] == [5]
    path.write_text(json.dumps(content | {"bertds": {**BASE["bertds"], "run": run}}))
    scheduler = {"type": "WarmupStableDecayLR", "params": WSD}
    settings = f"run.branch_from={at},scheduler={json.dumps(scheduler)}"
    train(write_swept_case(path, "run.max_steps=5|6|8", out, settings), settings)
    rates = [
        [line["lr"] for line in lines_of(out / "wsd" / f"max_steps{end}") if "lr" in line]
        for end in (5, 6, 8)
    ]
    assert [len(each) for each in rates] == [1, 2, 4]
    assert {each[0] for each in rates} == {2e-3}
    assert figures_of(out / "wsd/max_steps5") == figures_of(cooldown)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("run.branch_from={trunk}@7", "has no checkpoint of step 7, only of 4, 8, 12: choose"),
        ("run.branch_from={trunk}@12", "begins at step 12, but run.max_steps .* gives 12 steps"),
        ("run.branch_from={trunk}", 'main" is not RUN@STEP: expected a run directory and the'),
        ("run.branch_from=nowhere@4", "nowhere is not a run directory"),
        (
            "run.branch_from={trunk}@8,run.init_from=bert",
            'run.init_from is "bert" and run.branch_from is ".*leave one of them out',
        ),
        (
            "run.branch_from={trunk}@8,train_batch_size=16,run.seed=1,masking.ratio=0.3",
            r"must keep \(bertds.masking.ratio: not given -> 0.3, bertds.run.seed: .*: set it as",
        ),
    ],
)
def test_a_wrong_branch_is_rejected_before_anything_starts(
    trunk: Path, data_root: Path, tmp_path: Path, settings: str, words: str
) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    with pytest.raises(ConfigError, match=words) as refused:
        case = read_case(path, "main", f"{TRUNK},{settings.format(trunk=trunk)}")
        prepare_runs([case], data_root, tmp_path / "out", World())
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_link_to_the_run_of_another_case_leads_to_the_trunk(
    trunk: Path, data_root: Path, tmp_path: Path
) -> None:
    """As `same_as` makes it, beside the trunk's case."""
    link = trunk.parent.parent / "other" / "arm"
    link.mkdir(parents=True)
    (link / "case.json").write_text(json.dumps({"same_as": "case/main"}))
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    case = read_case(path, "main", f"{TRUNK},run.branch_from={link}@8")
    (run,) = prepare_runs([case], data_root, tmp_path / "out", World())
    assert run.branch is not None
    assert run.branch.run_dir.resolve() == trunk.resolve()


def test_a_run_that_exists_does_not_become_a_branch(
    trunk: Path, data_root: Path, device: torch.device
) -> None:
    """Someone forgot --out: otherwise the trunk itself would be trained on."""
    with pytest.raises(
        ConfigError, match=r"main was started with another .*branch_from: not given"
    ):
        more = f"{TRUNK},run.max_steps=14,run.branch_from={trunk}@8"
        train_here(data_root, trunk.parent.parent, device, more)


def test_other_shards_and_a_damaged_checkpoint_are_rejected(
    trunk: Path, data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    for name, source in (("ko", "en"), ("en", "ko")):
        shutil.copytree(data_root / source, data / name)
    settings = f"{TRUNK},run.branch_from={trunk}@8"
    with pytest.raises(ConfigError, match="was trained on other shards"):
        train_here(data, tmp_path / "shards", device, settings)
    shutil.copytree(trunk, copy)
    with (checkpoint_path(copy, 8) / "state.json").open("a") as file:
        file.write(" ")
    settings = f"{TRUNK},run.branch_from={copy}@8"
    with pytest.raises(CheckpointError, match=r"state.json has .* bytes, expected"):
        train_here(data_root, tmp_path / "damaged", device, settings)
    assert not list_checkpoints(tmp_path / "damaged/case/main")


@pytest.mark.parametrize(
    ("trunk_settings", "step", "words"),
    [
        ("run.keep_every=4", 8, ""),
        ("run.keep_every=4", 12, ""),
        ("", 12, ""),
        (
            "run.keep_every=4",
            6,
            "keeps no checkpoint of step 6, only of the multiples of 4 and its",
        ),
        ("", 8, "keeps no checkpoint of step 8, only of its last step, 12"),
        ("run.keep_every=4", 16, "keeps no checkpoint of step 16"),
    ],
)
def test_a_trunk_that_is_trained_first_must_keep_the_checkpoint(
    data_root: Path, tmp_path: Path, trunk_settings: str, step: int, words: str
) -> None:
    """Said before the trunk is trained, and not hours later."""
    paths = [tmp_path / f"{name}.json" for name in ("first", "second")]
    for path in paths:
        path.write_text(json.dumps(BASE))
    settings = f"run.max_steps=20,scheduler=null,run.branch_from={tmp_path}/first/main@{step}"
    cases = [
        read_case(paths[0], "main", trunk_settings),
        read_case(paths[1], "main", settings),
    ]
    if words:
        with pytest.raises(ConfigError, match=words):
            prepare_runs(cases, data_root, tmp_path, World())
        return
    branch = prepare_runs(cases, data_root, tmp_path, World())[1].branch
    assert branch is not None
    assert branch.step == step
