"""`python -m bertds evaluate` reproduces the validation metrics that training logged."""

import dataclasses
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertds.config.schema import MaskingConfig
from bertds.inference.evaluate import evaluate, open_evaluation
from bertds.inference.model_card import model_card
from bertds.io.json_files import read_json, write_json
from bertds.runs.trained_run import TrainedRun
from tests.helpers.launching import lines_of
from tests.helpers.trained_runs import NAMES, bertds_command


@pytest.fixture(autouse=True)
def one_thread():
    """The number of threads that the runs were trained with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logged(run_dir: Path, step: int) -> dict[str, float]:
    """The validation metrics in `metrics.jsonl`."""
    (line,) = [x for x in lines_of(run_dir) if x["step"] == step and "loss/valid" in x]
    return {key: value for key, value in line.items() if key.partition("/")[2].startswith("valid")}


@pytest.mark.dist
@pytest.mark.parametrize("name", NAMES)
def test_metrics_equal_those_of_training_bit_exactly(run_dirs, data_root, name):
    for checkpoint, step in (("latest", 6), ("3", 3)):
        trained = TrainedRun.open(run_dirs[name], checkpoint)
        assert trained.checkpoint.step == step
        assert evaluate(trained, data_root) == logged(run_dirs[name], step)


@pytest.mark.dist
def test_metrics_do_not_depend_on_the_batches(run_dirs, data_root):
    trained = TrainedRun.open(run_dirs["prenorm_of_two"], "latest")
    reference = evaluate(trained, data_root)
    for world_size, micro, row_length in ((1, 1000, 64), (4, 7, 41), (1, 1, 0)):
        config = trained.case.bertds
        run = config.run.model_copy(update={"max_micro_batch_size": micro})
        case = dataclasses.replace(trained.case, bertds=config.model_copy(update={"run": run}))
        metadata = trained.metadata | {"valid_row_length": row_length}
        manifest = trained.checkpoint.manifest | {"world_size": world_size}
        checkpoint = dataclasses.replace(trained.checkpoint, manifest=manifest)
        other = dataclasses.replace(trained, case=case, metadata=metadata, checkpoint=checkpoint)
        assert evaluate(other, data_root) == pytest.approx(reference, rel=1e-6)


@pytest.mark.dist
@pytest.mark.parametrize("is_on", [True, False])
def test_freed_memory_is_kept_as_in_training(run_dirs, data_root, monkeypatch, is_on):
    calls = []
    monkeypatch.setattr("bertds.inference.evaluate.keep_freed_memory", lambda: calls.append(1))
    trained = TrainedRun.open(run_dirs["prenorm_of_two"], "latest")
    config = trained.case.bertds
    run = config.run.model_copy(update={"keep_freed_memory": is_on})
    case = dataclasses.replace(trained.case, bertds=config.model_copy(update={"run": run}))
    evaluate(dataclasses.replace(trained, case=case), data_root)
    assert calls == [1] * is_on


@pytest.mark.dist
def test_precision_and_world_size_are_those_of_the_checkpoint(run_dirs, data_root, tmp_path):
    """A run that resumed with others has replaced its `case.json`."""
    run_dir = shutil.copytree(run_dirs["prenorm_of_two"], tmp_path / "case" / "run")
    content = read_json(run_dir / "case.json")
    content["resolved"]["world_size"] = 1
    content["config"]["bf16"] = {"enabled": True}
    write_json(run_dir / "case.json", content)
    trained = TrainedRun.open(run_dir, "3")
    assert evaluate(trained, data_root) == logged(run_dir, 3)
    assert "sequences in fp32" in model_card(trained, tmp_path)


@pytest.mark.dist
def test_command_prints_the_logged_metrics(run_dirs, data_root, capsys):
    run_dir = run_dirs["bert"]
    best = min((3, 6), key=lambda step: logged(run_dir, step)["loss/valid"])
    for checkpoint, step in (("latest", 6), ("best", best), ("step_0000000003", 3)):
        code, stdout, _ = bertds_command(
            capsys, "evaluate", run_dir, "--data", data_root, "--checkpoint", checkpoint
        )
        assert code == 0
        rows = dict(line.split() for line in stdout.splitlines())
        assert int(rows.pop("step")) == step
        assert {tag: float(value) for tag, value in rows.items()} == logged(run_dir, step)


@pytest.mark.dist
@pytest.mark.parametrize("name", ["bert", "prenorm_of_two", "modernbert_bf16"])
def test_an_exported_model_has_the_figures_of_its_run_on_any_set(
    run_dirs, data_root, tmp_path, capsys, name
):
    """The masks of a model are those with which `init` continues it, not those of this run."""
    exported = tmp_path / "exported"
    assert bertds_command(capsys, "export", run_dirs[name], "--out", exported)[0] == 0
    flags = ("--data", data_root, "--valid", "en")
    code, stdout, _ = bertds_command(capsys, "evaluate", exported, *flags)
    assert code == 0
    of_model = {tag: float(value) for tag, value in map(str.split, stdout.splitlines())}
    trained = TrainedRun.open(run_dirs[name], "latest")
    block = trained.case.bertds
    masking = MaskingConfig(ratio=0.3 if name == "modernbert_bf16" else 0.15)
    case = dataclasses.replace(trained.case, bertds=block.model_copy(update={"masking": masking}))
    manifest = trained.checkpoint.manifest | {"precision": "fp32"}
    checkpoint = dataclasses.replace(trained.checkpoint, manifest=manifest)
    of_run = open_evaluation(
        dataclasses.replace(trained, case=case, checkpoint=checkpoint), data_root, "en"
    ).metrics()
    assert of_model == pytest.approx(of_run, rel=1e-5)


@pytest.mark.dist
def test_a_model_needs_a_set_of_its_vocabulary(run_dirs, data_root, tmp_path, capsys):
    exported = tmp_path / "exported"
    assert bertds_command(capsys, "export", run_dirs["bert"], "--out", exported)[0] == 0
    for flags, words in [
        ((), "--valid is missing"),
        (("--valid", "none"), str(data_root / "none")),
    ]:
        code, _, stderr = bertds_command(capsys, "evaluate", exported, "--data", data_root, *flags)
        assert code in (2, 3)
        assert words in stderr
        assert stderr.count("\n") == 1


@pytest.mark.dist
def test_a_set_with_longer_sequences_than_the_model_accepts_is_named(
    run_dirs, write_shards, tmp_path, capsys
):
    row = [7] * 80  # the run has 64 positions
    sizes = {"block_sequences": (9,), "num_shards": 1, "seq_len": 80}
    write_shards(tmp_path / "long", [row] * 9, set_key=3, **sizes)
    code, _, stderr = bertds_command(
        capsys, "evaluate", run_dirs["bert"], "--data", tmp_path, "--valid", "long"
    )
    assert code == 2
    assert f"a sequence of 80 tokens, but {run_dirs['bert']} accepts 64" in stderr


@pytest.mark.dist
def test_missing_run_data_or_checkpoint_is_named(run_dirs, data_root, tmp_path, capsys):
    run_dir = shutil.copytree(run_dirs["bert"], tmp_path / "case" / "run")
    data = ("--data", data_root)
    for flags, code, words in [
        ((tmp_path, *data), 2, f"{tmp_path} is not a run directory"),
        ((run_dir, "--data", tmp_path), 3, str(tmp_path / "ko")),
        ((run_dir, *data, "--checkpoint", "5"), 4, "available: step_0000000006, step_0000000003"),
        ((run_dir, *data, "--checkpoint", "newest"), 4, "expected latest, best or a step"),
    ]:
        exit_code, _, stderr = bertds_command(capsys, "evaluate", *flags)
        assert exit_code == code
        assert words in stderr
        assert stderr.count("\n") == 1


@pytest.mark.dist
def test_damaged_checkpoint_is_skipped_or_rejected(run_dirs, data_root, tmp_path, capsys):
    run_dir = shutil.copytree(run_dirs["bert"], tmp_path / "case" / "run")
    (run_dir / "checkpoints" / "step_0000000006" / "state.json").unlink()
    assert TrainedRun.open(run_dir, "latest").checkpoint.step == 3
    code, _, stderr = bertds_command(
        capsys, "evaluate", run_dir, "--data", data_root, "--checkpoint", "6"
    )
    assert code == 4
    assert "state.json is missing" in stderr


POSITION = {"step", "epoch", "sequences", "tokens", "seconds", "cpu_seconds"}
TRAINING = {"lr", "loss/train", "acc/train", "grad_norm", "tokens_per_s", "mfu", "padding"}
TRAINING |= {"masked_ratio", "peak_memory", "data_wait", "forward", "backward", "update"}
VALIDATION = {
    f"{metric}/valid{name}"
    for metric in ("loss", "acc", "bits_per_character")
    for name in ("", "/some", "/en")
}
VALIDATION |= {"acc_mask/valid", "acc_random/valid", "acc_kept/valid"}


@pytest.mark.parametrize("name", ["bert", "prenorm_of_two"])
def test_metrics_file_and_tensorboard_have_the_documented_keys(run_dirs, name):
    for line in lines_of(run_dirs[name]):
        assert line.keys() - POSITION in (TRAINING, VALIDATION)
        assert line.keys() > POSITION
        assert line["sequences"] == 32 * line["step"]
        if "padding" in line:
            assert 0 <= line["padding"] < 1
            assert 0 < line["mfu"] < 1
    events = EventAccumulator(str(run_dirs[name] / "tb"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= TRAINING | VALIDATION


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_counted_at_every_zero_stage(run_dirs, name):
    """At ZeRO stage 3, no rank holds a whole parameter."""
    shapes = TrainedRun.open(run_dirs[name], "latest").checkpoint.manifest["parameters"].values()
    counted = read_json(run_dirs[name] / "case.json")["resolved"]["parameters"]
    assert counted == sum(math.prod(shape) for shape in shapes) > 10_000


@pytest.mark.parametrize(
    ("name", "numbers"), [("bert", (16, 2, 1)), ("prenorm_of_two", (16, 1, 2))]
)
def test_factors_of_the_batch_size_are_saved_and_logged(run_dirs, name, numbers):
    resolved = read_json(run_dirs[name] / "case.json")["resolved"]
    keys = ("micro_batch_size", "gradient_accumulation_steps", "world_size")
    assert tuple(resolved[key] for key in keys) == numbers
    product = r"\D+ x ".join(map(str, numbers))
    assert re.search(
        rf"\b32 sequences \D+ = {product} \D", (run_dirs[name] / "train.log").read_text()
    )


@pytest.mark.dist
def test_arm_that_is_another_run_is_followed(run_dirs, tmp_path, monkeypatch):
    shutil.copytree(run_dirs["bert"], tmp_path / "case1" / "first")
    other = tmp_path / "case2" / "same"
    other.mkdir(parents=True)
    (other / "case.json").write_text('{"case": "case2", "arm": "same", "same_as": "case1/first"}')
    assert TrainedRun.open(other, "latest").run_dir == tmp_path / "case1" / "first"
    monkeypatch.chdir(other.parent)
    assert TrainedRun.open(Path("same"), "latest").run_dir == tmp_path / "case1" / "first"
