"""`python -m bertds export` writes a directory that transformers loads, with equal logits."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertds.__main__ import COMMANDS
from bertds.cli import run
from bertds.data.packing import MaskedSequences, pack
from bertds.huggingface.weights import to_hf_state_dict
from bertds.model.batch import to_device
from bertds.runs.trained_run import TrainedRun
from tests.helpers.launching import ROOT, environment, lines_of
from tests.helpers.trained_runs import NAMES, bertds_command
from tests.helpers.weights import read_weights

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.dist
CLASSES = {
    "bert": "BertForMaskedLM",
    "prenorm": "RobertaPreLayerNormForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
}
# Every preset, precision and world size once.
FEW = ("bert", "prenorm_of_two", "modernbert_bf16_of_two")
MODELS = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in sorted(NAMES)
]


@pytest.fixture(scope="module")
def exported(run_dirs, tmp_path_factory) -> Callable[[str], Path]:
    """Exports a run by name, on first use."""
    out = tmp_path_factory.mktemp("exported")

    def export(name: str) -> Path:
        if not (out / name).exists():
            arguments = ["export", str(run_dirs[name]), "--out", str(out / name)]
            assert run("python -m bertds", COMMANDS, arguments) == 0
        return out / name

    return export


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_equal_logits(run_dirs, exported, name):
    """For padded sequences up to the maximum length."""
    hf_model = transformers.AutoModelForMaskedLM.from_pretrained(exported(name))
    assert type(hf_model).__name__ == CLASSES[name.split("_")[0]]
    assert not hf_model.training
    model = TrainedRun.open(run_dirs[name], "latest").model()
    lengths = np.array([64, 1, 30])
    ids = np.random.default_rng(0).integers(5, model.head.decoder.out_features, lengths.sum())
    sequences = MaskedSequences.masked_at(
        np.arange(ids.size), tokens=ids, inputs=ids, lengths=lengths
    )
    packed = pack(sequences, row_length=64, pad_id=0)
    logits = model.logits(to_device(torch.device("cpu"), packed)).split(lengths.tolist())
    inputs = torch.zeros(3, 64, dtype=torch.long)
    for row, sequence in zip(inputs, np.split(ids, lengths.cumsum()[:-1]), strict=True):
        row[: sequence.size] = torch.from_numpy(sequence)
    hf_logits = hf_model(input_ids=inputs, attention_mask=(inputs > 0).long()).logits
    for row, length, expected in zip(hf_logits, lengths, logits, strict=True):
        torch.testing.assert_close(row[:length], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_files_hold_the_checkpoint_bit_exactly(run_dirs, exported, name):
    trained = TrainedRun.open(run_dirs[name], "latest")
    model = trained.model()
    for key, weight in read_weights(trained.checkpoint.path).items():
        assert torch.equal(model.get_parameter(key), weight)
    written = load_file(exported(name) / "model.safetensors")
    expected = to_hf_state_dict(model, 0)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_fill_mask_pipeline_predicts_as_the_fill_command(run_dirs, exported, capsys):
    text = "ba co [MASK] fin go"
    pipeline = transformers.pipeline("fill-mask", str(exported("prenorm_of_two")))
    capsys.readouterr()
    code, stdout, _ = bertds_command(capsys, "fill", run_dirs["prenorm_of_two"], text)
    assert code == 0
    expected = pipeline(text)
    rows = [line.split() for line in stdout.splitlines()]
    assert [float(row[0].rstrip("%")) / 100 for row in rows] == pytest.approx(
        [prediction["score"] for prediction in expected], abs=0.51e-3
    )
    assert [row[1] for row in rows] == [prediction["token_str"] for prediction in expected]


def test_model_card_has_metrics_data_and_case(run_dirs, exported, tmp_path, capsys):
    card = (exported("bert") / "README.md").read_text()
    (line,) = [x for x in lines_of(run_dirs["bert"]) if x["step"] == 6 and "loss/valid" in x]
    assert f"| some | {line['loss/valid/some']:.4f} |" in card
    assert "| ko | training | 400 |" in card
    assert json.loads(card.split("```json\n")[1].split("```")[0])["train_batch_size"] == 32
    out = tmp_path / "third"
    arguments = (run_dirs["bert"], f"--out={out}", "--checkpoint=3")
    assert bertds_command(capsys, "export", *arguments)[0] == 0
    assert "for 3 steps" in (out / "README.md").read_text()


def test_nothing_is_overwritten_or_left_incomplete(run_dirs, tmp_path, capsys):
    run_dir = shutil.copytree(run_dirs["bert"], tmp_path / "case" / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("stays")
    code, _, stderr = bertds_command(capsys, "export", run_dir, "--out", out)
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"{out} exists and is not empty" in stderr
    (out / "mine").unlink()
    content = json.loads((run_dir / "case.json").read_text())
    content["config"]["bertds"]["model"]["intermediate_size"] = 40
    (run_dir / "case.json").write_text(json.dumps(content))
    code, _, stderr = bertds_command(capsys, "export", run_dir, "--out", out)
    assert code == 4
    assert "feed_forward.input" in stderr
    content["config"]["bertds"]["model"] |= {"intermediate_size": 48, "feed_forward": "glu"}
    (run_dir / "case.json").write_text(json.dumps(content))
    code, _, stderr = bertds_command(capsys, "export", run_dir, "--out", out)
    assert code == 2
    assert "model.feed_forward" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["case", "out"]
    assert not [*out.iterdir()]
    shutil.rmtree(run_dir)
    shutil.copytree(run_dirs["bert"], run_dir)
    assert (
        bertds_command(capsys, "export", run_dir, "--out", out)[0] == 0
    )  # into an empty directory
    assert len([*out.iterdir()]) == 5


def test_a_full_disk_is_a_one_line_error_and_nothing_is_left(run_dirs, tmp_path, capsys):
    """The weights are written by a library with an exception of its own; smaller files fail too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 4096):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            code, _, error = bertds_command(capsys, "export", run_dirs["bert"], tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (code, error.count("\n")) == (2, 1)
        assert f"{tmp_path / 'out'}: File too large: free space there, or choose another" in error
        assert list(tmp_path.iterdir()) == []


def test_neither_deepspeed_nor_transformers_is_needed(run_dirs, tmp_path):
    blocked = "import sys; sys.modules['deepspeed'] = sys.modules['transformers'] = None; "
    program = "from bertds.__main__ import COMMANDS; from bertds.cli import run; "
    call = f"sys.exit(run('x', COMMANDS, ['export', '{run_dirs['bert']}', '--out=out']))"
    subprocess.run(
        [sys.executable, "-c", blocked + program + call],
        check=True,
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "prenorm_of_two",
        pytest.param("bert", marks=pytest.mark.slow),
        pytest.param("modernbert_bf16", marks=pytest.mark.slow),
    ],
)
def test_transformers_trainer_fine_tunes_it(exported, tmp_path, name):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    for file, count in (("train", 40), ("test", 8)):
        rows = [f"ba co der fin go {'hal' if n % 2 else 'ith'}\t{n % 2}" for n in range(count)]
        (tmp_path / f"{file}.tsv").write_text("\n".join(rows))
    config = json.dumps({"max_steps": 2, "batch": 8, "rates": [1e-4, 1e-3], "seeds": [0, 1]})
    program = "benchmarks/finetuning/finetune_transformers.py"
    files = [str(exported(name)), str(tmp_path / "train.tsv"), str(tmp_path / "test.tsv")]
    done = subprocess.run(
        [sys.executable, program, *files, config],
        check=True,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["sizes"] == {"train": 40, "test": 8}
    assert result["most_frequent"] == 0.5
    assert result["found"].keys() == {"pre-trained", "random weights"}
    for found in result["found"].values():
        assert found["rate"] in (1e-4, 1e-3)
        assert [0 <= accuracy <= 1 for accuracy in found["accuracies"]] == [True, True]
