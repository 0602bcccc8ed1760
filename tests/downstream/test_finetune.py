"""`python -m bertds finetune`, with the real Trainer on a tiny run."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertds.downstream.examples import TaskData, data_of_files
from bertds.downstream.finetune import Encoder
from bertds.downstream.tasks import task_of_files
from bertds.downstream.trial import FineTuning, Recipe
from bertds.errors import ConfigError
from bertds.runs.downstream_scores import DownstreamScores, Trial, read_scores
from tests.downstream.conftest import rows_of
from tests.helpers.trained_runs import bertds_command

pytest.importorskip("accelerate")
pytest.importorskip("transformers")
FAST = ("--epochs", 4, "--batch", 10, "--seeds", 0, "--rates", "1e-2")


@pytest.mark.parametrize("kind", ["classification", "pair", "regression", "tokens"])
def test_a_task_that_the_words_give_away_is_learned(exported, files, finetune, tmp_path, kind):
    out, _ = finetune(exported, *files(kind), *FAST, "--out", tmp_path, "--name", "x")
    scores = read_scores(tmp_path / "finetune" / "x.json")
    (trial,) = scores.trials
    assert min(trial.scores.values()) > 0.8, scores
    expected = {"regression": {"pearson", "spearman"}, "tokens": {"entity_f1"}}
    assert trial.scores.keys() == expected.get(kind, {"accuracy"})
    for value in trial.scores.values():
        assert f"{value:.4f}" in out


def test_the_same_command_resumes_and_new_seeds_are_added(run_dir, files, finetune):
    flags = [run_dir, *files("classification"), *FAST[:4]]
    finetune(*flags, "--seeds", 0, "--rates", "1e-3")
    path = run_dir / "finetune" / "train.json"
    first, content = read_scores(path), path.read_bytes()
    finetune(*flags, "--seeds", 0, "--rates", "1e-3")
    assert path.read_bytes() == content
    _, errors = finetune(*flags, "--seeds", "0,1", "--rates", "1e-3,1e-2")
    more = read_scores(path)
    assert more.trials[0] == first.trials[0]
    assert [(trial.rate, trial.seed) for trial in more.trials] == [
        (1e-3, 0),
        (1e-2, 0),
        (1e-3, 1),
        (1e-2, 1),
    ]
    assert errors.count("trial ") == 3
    assert json.loads(path.read_text())["best"]["seeds"] == [0, 1]


def test_a_seed_gives_the_same_scores_from_a_run_and_from_its_export(
    run_dir, exported, files, finetune, tmp_path
):
    data = files("regression")
    flags = [*data, *FAST[:6], "--rates", "1e-3"]
    finetune(run_dir, *flags)
    finetune(exported, *flags, "--out", tmp_path)
    of_run = read_scores(run_dir / "finetune" / "train.json")
    of_export = read_scores(tmp_path / "finetune" / "train.json")
    assert of_run.trials[0].scores == of_export.trials[0].scores
    assert of_run.settings["model"] == of_export.settings["model"]
    assert (of_run.settings["step"], of_export.settings["step"]) == (6, None)


def test_a_rate_that_is_too_high_has_low_scores(exported, files, finetune, tmp_path, told):
    """The file stays JSON, and the best rate is another one; the user hears of the edge of the grid."""
    rates = ("--rates", "1e-2,1e30")
    out, _ = finetune(exported, *files("regression"), *FAST[:6], *rates, "--out", tmp_path)
    scores = read_scores(tmp_path / "finetune" / "train.json")
    assert scores.best()[0].rate == 1e-2
    assert scores.of_rate(1e30)[0].score == 0
    assert "NaN or infinite" in told.text
    assert "The best rate is the lowest that was tried: try lower ones with --rates." in out


def test_results_of_other_settings_are_not_mixed(exported, files, finetune, tmp_path, capsys):
    data = files("classification")
    flags = [exported, *data, "--out", tmp_path, "--name", "x", *FAST]
    finetune(*flags)
    content = (tmp_path / "finetune" / "x.json").read_bytes()
    files("classification", train=50)
    for more in ((), ("--from_scratch",)):
        code, _, errors = bertds_command(capsys, "finetune", *flags, *more)
        assert code == 2
        assert "x.json has results with other settings" in errors
        assert "training_examples 60 (now 50)" in errors
    assert (tmp_path / "finetune" / "x.json").read_bytes() == content


@pytest.mark.parametrize("from_scratch", [False, True])
def test_the_encoder_starts_from_the_weights_of_the_export(exported, files, from_scratch):
    """Or, for the baseline, from none of them, in the same architecture."""
    flags = files("classification")
    task = task_of_files("classification", "", "", "", "")
    data = data_of_files(task, Path(flags[3]), Path(flags[5]), None)
    recipe = Recipe(epochs=1, batch=4, max_length=0, from_scratch=from_scratch)
    model = FineTuning.open(exported, data, recipe)._model()
    saved = load_file(exported / "model.safetensors")
    found = model.state_dict()
    matrices = [name for name in saved if name in found and saved[name].dim() == 2]
    assert len(matrices) > 5
    assert {name: saved[name].shape for name in matrices} == {
        name: found[name].shape for name in matrices
    }
    equal = [torch.equal(saved[name], found[name]) for name in matrices]
    assert not any(equal) if from_scratch else all(equal)


@pytest.mark.parametrize("kind", ["classification", "tokens"])
@pytest.mark.parametrize(
    "name",
    [
        "Bert",
        "RobertaPreLayerNorm",
        "ModernBert",
        "Roberta",
        "XLMRoberta",
        "Camembert",
        "DistilBert",
    ],
)
def test_every_class_that_is_exported_can_be_fine_tuned(tmp_path, name, kind):
    """Only heads are new; a missing weight of the encoder is an error."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 8,
        "max_position_embeddings": 16,
    }
    depth = {"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
    if name == "DistilBert":
        sizes = {"vocab_size": 20, "dim": 8, "hidden_dim": 8, "max_position_embeddings": 16}
        depth = {"n_layers": 1, "n_heads": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**sizes, **depth)
    getattr(transformers, f"{name}ForMaskedLM")(config).save_pretrained(tmp_path)
    data = TaskData(
        task=task_of_files(kind, "", "", "", ""), names=("a", "b", "c"), train=[], valid={}
    )
    recipe = Recipe(epochs=1, batch=4, max_length=0, from_scratch=False)
    parts = {"tokenizer": None, "train": None, "valid": {}}
    tuning = FineTuning(directory=tmp_path, data=data, recipe=recipe, **parts)
    assert tuning._model().num_labels == 3
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in weights if "query" in key or "q_lin.weight" in key or "Wqkv" in key)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks the weights"):
        tuning._model()


def test_the_fingerprint_is_that_of_what_is_used(exported, tmp_path):
    encoder = Encoder(directory=exported, home=exported)
    assert encoder.fingerprint(weights=True) != encoder.fingerprint(weights=False)
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copy = Encoder(directory=tmp_path, home=tmp_path)
    assert copy.fingerprint(weights=True) == encoder.fingerprint(weights=True)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    assert copy.fingerprint(weights=True) != encoder.fingerprint(weights=True)
    assert copy.fingerprint(weights=False) == encoder.fingerprint(weights=False)


def test_the_best_rate_is_that_of_the_mean_over_all_seeds():
    def trial(rate, seed, *values):
        scores = dict(zip(("a", "b"), values, strict=True))
        return Trial(rate=rate, seed=seed, scores=scores, seconds=1.0)

    trials = (
        trial(1e-4, 0, 0.9, 0.9),
        trial(1e-4, 1, 0.1, 0.1),
        trial(1e-3, 0, 0.7, 0.5),
        trial(1e-3, 1, 0.7, 0.5),
        trial(1e-2, 0, 1.0, 1.0),  # one seed of two: not compared
    )
    scores = DownstreamScores(settings={}, trials=trials)
    assert {each.rate for each in scores.best()} == {1e-3}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give --task and --data, or --kind with --train and --valid, or with --data"),
        (("--task", "glue/sst2"), "--data is missing"),
        (("--task", "glue/sst2", "--kind", "pair"), "--kind does not go with --task"),
        (("--rates", "1e-3,x"), "--rates is '1e-3,x'"),
        (("--rates", "0"), "expected positive"),
        (("--seeds", "1,1"), "has a number twice"),
        (("--epochs", 0), "--epochs is 0.0"),
        (("--kind", "words"), "expected one of classification, pair, regression, tokens"),
    ],
)
def test_wrong_flags_are_a_one_line_error(run_dir, capsys, flags, words):
    code, out, errors = bertds_command(capsys, "finetune", run_dir, *flags)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert words in errors
    assert not (run_dir / "finetune").exists()


def test_wrong_names_and_lengths(run_dir, exported, files, capsys):
    data = files("classification")
    for flags, words in (
        (("--name", "../x"), "--name is '../x'"),
        (("--max_length", 999), "--max_length is 999, the model takes 32 tokens"),
    ):
        code, _, errors = bertds_command(capsys, "finetune", exported, *data, *flags)
        assert code == 2
        assert words in errors
    code, _, errors = bertds_command(capsys, "finetune", run_dir.parent, *data)
    assert code == 2
    assert "is not a run directory" in errors


def test_a_missing_package_is_named(run_dir, files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    code, _, errors = bertds_command(capsys, "finetune", run_dir, *files("classification"))
    assert code == 2
    assert "pip install 'bertds[finetune]'" in errors


def test_a_task_by_name_from_the_directory_of_all(exported, finetune, tmp_path):
    """GLUE on disk, as .jsonl files; the matched and the mismatched accuracy are both shown."""
    rows = rows_of("pair", 40, 0)
    directory = tmp_path / "data" / "glue" / "mnli"
    directory.mkdir(parents=True)
    lines = [
        json.dumps({"premise": row["text"], "hypothesis": row["text_pair"], "label": row["label"]})
        for row in rows
    ]
    for split in ("train", "validation_matched", "validation_mismatched"):
        (directory / f"{split}.jsonl").write_text("\n".join(lines))
    flags = ("--task", "glue/mnli", "--data", tmp_path / "data", "--limit", 20, "--out", tmp_path)
    out, _ = finetune(exported, *flags, "--epochs", 1, "--rates", "1e-3", "--seeds", 3)
    scores = read_scores(tmp_path / "finetune" / "glue-mnli.json")
    assert scores.metrics == ["accuracy_matched", "accuracy_mismatched"]
    assert scores.settings["validation_examples"] == 40
    assert "accuracy_mismatched" in out


def test_a_directory_of_ones_own_task(exported, finetune, tmp_path):
    """Equal to its files."""
    directory = tmp_path / "mine"
    directory.mkdir()
    for split in ("train", "validation"):
        rows = rows_of("classification", 20, 0)
        (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ("--kind", "classification", "--epochs", 1, "--rates", "1e-3", "--seeds", 3)
    finetune(exported, "--data", directory, *flags, "--out", tmp_path)
    files = ("--train", directory / "train.jsonl", "--valid", directory / "validation.jsonl")
    finetune(exported, *files, *flags, "--out", tmp_path)
    names = ("mine", "train")
    of_directory, of_files = (read_scores(tmp_path / "finetune" / f"{name}.json") for name in names)
    assert of_directory.settings == of_files.settings
    assert of_directory.trials[0].scores == of_files.trials[0].scores
