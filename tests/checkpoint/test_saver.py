"""A checkpoint is complete or absent, and any damage is found and named."""

import hashlib
import io
import itertools
import os
import pickle
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bertds.checkpoint.directory import (
    Checkpoint,
    WrittenFile,
    checkpoint_path,
    draft_path,
    finalize,
    list_checkpoints,
    open_checkpoint,
    prune,
    resolve_pointer,
    step_of,
    write_json,
    write_pointer,
)
from bertds.checkpoint.tensor_files import FragmentReader, file_name, write_fragments
from bertds.engine.optimizer_state import TensorKey
from bertds.errors import CheckpointError
from tests.helpers.gloo import Workers, run
from tests.helpers.in_process_training import train_here
from tests.helpers.weights import read_weights

WORKER = Path(__file__).resolve().parents[1] / "helpers" / "workers" / "checkpoint.py"
NUMEL = 1000


def write(run_dir: Path, step: int, cuts: tuple[int, ...] = (400,)) -> Path:
    """A checkpoint of one parameter, 0 1 2 ..., in fragments of several ranks."""
    folder = checkpoint_path(run_dir, step)
    draft = draft_path(folder)
    draft.mkdir(parents=True)
    values = torch.arange(NUMEL, dtype=torch.float32)
    ends = (0, *cuts, NUMEL)
    files = [write_json(draft / "state.json", {"state": {"step": step}})]
    for rank, (start, end) in enumerate(itertools.pairwise(ends)):
        pieces = {
            TensorKey("weight", "a.b", start): values[start:end],
            TensorKey("exp_avg", "a.b", start): -values[start:end],
        }
        files.append(write_fragments(draft / file_name(rank), pieces))
    facts = {"step": step, "world_size": len(files) - 1, "parameters": {"a.b": [10, 100]}}
    finalize(draft, folder, facts, files)
    return folder


def test_ranges_are_read_across_files(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, 1, cuts=(1, 400, 401, 999)))
    generator = random.Random(0)
    with FragmentReader(checkpoint.tensor_files) as reader:
        assert reader.kinds("a.b") == {"weight", "exp_avg"}
        for _ in range(50):
            start, end = sorted(generator.randrange(NUMEL + 1) for _ in range(2))
            out = torch.empty(end - start)
            reader.read_into("exp_avg", "a.b", start, out)
            assert torch.equal(out, -torch.arange(start, end, dtype=torch.float32))


def test_a_missing_range_is_found(tmp_path: Path) -> None:
    pieces = {
        TensorKey("weight", "a", 0): torch.ones(5),
        TensorKey("weight", "a", 7): torch.ones(3),
    }
    write_fragments(tmp_path / file_name(0), pieces)
    with FragmentReader([tmp_path / file_name(0)]) as reader:
        reader.read_into("weight", "a", 7, torch.empty(3))
        with pytest.raises(CheckpointError, match="no weight of a from element 5"):
            reader.read_into("weight", "a", 0, torch.empty(10))
        with pytest.raises(CheckpointError, match="no weight of b"):
            reader.read_into("weight", "b", 0, torch.empty(1))


def test_weights_are_complete_and_shaped(tmp_path: Path) -> None:
    weights = read_weights(write(tmp_path, 1))
    assert torch.equal(weights["a.b"], torch.arange(NUMEL, dtype=torch.float32).view(10, 100))


@pytest.mark.parametrize(
    "name", ["manifest.json", "state.json", "rank_00000.safetensors", "rank_00001.safetensors"]
)
def test_any_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, 1) / name
    whole = file.read_bytes()
    generator = random.Random(name)
    places = [0, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(20))]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << generator.randrange(8)
        file.write_bytes(data)
        if is_same_json(name, whole, bytes(data)):
            continue
        with pytest.raises(CheckpointError, match=name):
            open_checkpoint(file.parent)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name):
            open_checkpoint(file.parent)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        open_checkpoint(file.parent)
    file.write_bytes(whole)
    open_checkpoint(file.parent)


def is_same_json(name: str, whole: bytes, damaged: bytes) -> bool:
    """White space in the manifest may become other white space without effect."""
    return name == "manifest.json" and whole.split() == damaged.split()


def test_nothing_outside_the_directory_is_read(tmp_path: Path) -> None:
    folder = checkpoint_path(tmp_path, 1)
    draft = draft_path(folder)
    draft.mkdir(parents=True)
    written = write_json(tmp_path / "state.json", {})
    finalize(draft, folder, {}, [written._replace(name="../../state.json")])
    with pytest.raises(CheckpointError, match="unknown file"):
        open_checkpoint(folder)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def sealed(run_dir: Path, content: bytes) -> Path:
    """A checkpoint with this tensor file, which the manifest's hash confirms."""
    folder = checkpoint_path(run_dir, 1)
    draft = draft_path(folder)
    draft.mkdir(parents=True)
    (draft / file_name(0)).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    files = [WrittenFile(file_name(0), len(content), digest), write_json(draft / "state.json", {})]
    finalize(draft, folder, {"step": 1, "world_size": 1, "parameters": {"a": [3]}}, files)
    return folder


def test_a_malicious_checkpoint_executes_nothing(tmp_path: Path) -> None:
    """An attacker can also write matching hashes, so reading must be harmless."""
    touched = tmp_path / "touched"
    pickled, saved = pickle.dumps(Evil(touched)), io.BytesIO()
    torch.save({"weight|a|0": Evil(touched)}, saved)
    for number, content in enumerate((pickled, saved.getvalue())):
        folder = sealed(tmp_path / str(number), content)
        with pytest.raises(CheckpointError, match=r"rank_00000\.safetensors cannot be read"):
            read_weights(folder)
    assert not touched.exists()
    pickle.loads(pickled)
    assert touched.exists()  # the attack works where pickles are loaded


@pytest.mark.parametrize("key", ["weight", "weight|a", "weight|a|x", "weight|a|0|0", ""])
def test_an_unknown_key_is_rejected(key: str, tmp_path: Path) -> None:
    folder = sealed(tmp_path, safetensors.torch.save({key: torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(folder)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, 1, cuts=(10,))
    folder = write(tmp_path, 1, cuts=(10, 20, 30))
    assert open_checkpoint(folder).manifest["world_size"] == 4
    prune(folder, keep_last=1)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5, 9):
        write(tmp_path, step)
    write_pointer(tmp_path, "best", checkpoint_path(tmp_path, 2))
    (tmp_path / "checkpoints" / "step_0000000003.tmp-dead").mkdir()
    prune(checkpoint_path(tmp_path, 5), keep_last=2)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["5", "4", "2"]
    assert resolve_pointer(tmp_path, "best") == checkpoint_path(tmp_path, 2)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


def test_multiples_of_keep_every_are_never_removed(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """They are written where no other save is due, and stay when the key is changed or deleted."""
    settings = "scheduler=null,data.valid=null,run.keep_last=1,run.save_every=5"

    def steps_after(more: str) -> list[int]:
        assert train_here(data_root, tmp_path, device, f"{settings},{more}") == 0
        return [step_of(path) for path in list_checkpoints(tmp_path / "case/main")]

    assert steps_after("run.max_steps=7,run.keep_every=3") == [7, 6, 3]
    assert steps_after("run.max_steps=8") == [8, 6, 3]
    # Four steps; the checkpoint of step 8 was written without the key.
    assert steps_after('run.max_steps=10,run.keep_every="0.11 epochs"') == [10, 8, 6, 3]


def test_later_steps_are_abandoned_even_if_they_are_multiples(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5, 6):
        write(tmp_path, step)
    prune(checkpoint_path(tmp_path, 5), keep_last=1, keep_every=2)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [5, 4, 2]


@pytest.mark.parametrize("text", ["", "step_0000000007", "../checkpoints", "/etc"])
def test_a_stale_or_invalid_pointer_resolves_to_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path, 1)
    (tmp_path / "checkpoints" / "latest").write_text(text)
    assert resolve_pointer(tmp_path, "latest") is None
    assert resolve_pointer(tmp_path, "best") is None


def test_no_checkpoint(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []
    assert resolve_pointer(tmp_path, "latest") is None


@pytest.mark.dist
def test_a_fault_on_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    one, other = run(WORKER, 2, "faults", tmp_path / "run", scratch=tmp_path)
    assert one == other
    first, second = "step_0000000001", "step_0000000002"
    assert one["full disk"].startswith("4 checkpoint step_0000000003 could not be written")
    assert "rank 1: File too large" in one["full disk"]
    assert "bytes to write" in one["full disk"]
    assert "JSON compliant" in one["not JSON"]
    assert one["left"] == ["latest", first, second]
    assert one["stale latest"] == [second]
    assert one["damaged"][0] == first
    assert "rank_00001.safetensors is damaged" in one["damaged"][1]
    assert "holds another model" in one["other model"]
    assert "moments of AdamW, but the case has SGD" in one["other optimizer"]
    assert "state.json is missing" in one["all damaged"]
    assert one["none"] == []


@pytest.mark.dist
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_slow_file_system_is_awaited_and_an_unshared_one_is_reported(
    tmp_path: Path,
) -> None:
    one, other = run(WORKER, 2, "elsewhere", tmp_path / "run", scratch=tmp_path)
    assert one == other
    assert one["late"] == ["step_0000000001", 1]
    assert one["never"].startswith("4 checkpoint step_0000000002 could not be written")
    assert "did not appear within 1 s: --out must be on a file system" in one["never"]
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000000001"]


# The disk operations of a save, by the names of Python's audit events.
TOUCHES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink"}


def save(run_dir: Path, step: int) -> None:
    """As `saver.save` does on rank 0."""
    folder = write(run_dir, step)
    write_pointer(run_dir, "latest", folder)
    write_pointer(run_dir, "best", folder)
    prune(folder, 1)


def dies_at(number: int, run_dir: Path, step: int) -> bool:
    """Whether a process that saves is killed before its disk operation number n."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    touches = itertools.count(1)

    def die(event: str, arguments: tuple[Any, ...]) -> None:
        if event in TOUCHES and not isinstance(arguments[0], int):
            place = os.fsdecode(arguments[0])
            # shutil.rmtree passes names without a directory.
            is_ours = place.startswith(str(run_dir)) or not Path(place).is_absolute()
            if is_ours and next(touches) == number:
                os._exit(9)

    sys.addaudithook(die)
    try:
        save(run_dir, step)
    finally:
        os._exit(0)


def test_a_save_killed_anywhere_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    """Killed before each disk operation, one after the other."""
    save(tmp_path / "before", 1)
    for number in itertools.count(1):
        run_dir = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "before", run_dir)
        has_died = dies_at(number, run_dir, 2)
        found = list_checkpoints(run_dir)
        assert found
        for folder in found:
            open_checkpoint(folder)
        assert resolve_pointer(run_dir, "latest") in found
        save(run_dir, 3)  # the same command resumes
        assert [folder.name for folder in list_checkpoints(run_dir)] == ["step_0000000003"]
        assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == [
            *("best", "latest", "step_0000000003")
        ]
        shutil.rmtree(run_dir)
        if not has_died:
            break
    assert number > 12


def kill_and_resume(tmp_path: Path, kills: int, stage: int) -> None:
    """Killed at any moment: nothing saved is lost, and what is resumed is what was saved."""
    generator = random.Random(stage)
    states: dict[int, str] = {}
    saved = 0
    for _ in range(kills):
        with Workers(WORKER, 2, "endless", tmp_path / "run", stage, scratch=tmp_path) as workers:
            give_up = time.monotonic() + 300
            while not any(line["what"] == "saved" for line in workers.emitted()):
                assert time.monotonic() < give_up, workers.results(0)
                time.sleep(0.05)
            time.sleep(generator.uniform(0, 0.2))
            generator.choice(workers.processes).kill()
            workers.kill()
            said = workers.emitted()
        latest = resolve_pointer(tmp_path / "run", "latest")
        assert latest is not None
        open_checkpoint(latest)
        for line in said:
            assert states.setdefault(line["step"], line["state"]) == line["state"]
        if said[0]["what"] == "resumed":
            assert said[0]["step"] >= saved
        else:
            assert saved == 0
        saved = max(line["step"] for line in said if line["what"] == "saved")
    newest = list_checkpoints(tmp_path / "run")[0]
    assert isinstance(open_checkpoint(newest), Checkpoint)
    shutil.rmtree(tmp_path / "run")


@pytest.mark.dist
def test_kills_while_saving_lose_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=3, stage=1)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_many_kills_while_saving_lose_nothing(tmp_path: Path, stage: int) -> None:
    """A hundred kills in all."""
    kill_and_resume(tmp_path, kills=25, stage=stage)


def test_the_best_pointer_is_restored_after_a_kill(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """Killed between the rename and the pointer: without it the best checkpoint would be pruned."""
    settings = "scheduler=null,run.keep_last=1,run.max_steps"
    assert train_here(data_root, tmp_path, device, f"{settings}=6") == 0
    run_dir = tmp_path / "case/main"
    best = run_dir / "checkpoints/best"
    assert best.read_text() == "step_0000000006\n"
    best.unlink()
    still = f"{settings}=8,optimizer.params.lr=1e-30"
    assert train_here(data_root, tmp_path, device, still) == 0
    assert [folder.name for folder in list_checkpoints(run_dir)] == [
        "step_0000000008",
        "step_0000000006",
    ]
    assert resolve_pointer(run_dir, "best") == checkpoint_path(run_dir, 6)
