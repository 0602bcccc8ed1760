"""A run becomes a directory that Hugging Face's library takes at once, whatever trained it."""

import json
import shutil
import subprocess
import sys
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
from tests.helpers.trained_runs import NAMES
from tests.helpers.weights import read_weights

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.dist
CLASSES = {
    "bert": "BertForMaskedLM",
    "prenorm": "RobertaPreLayerNormForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
}


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    code = run("python -m bertds", COMMANDS, [str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def exported(run_dirs, tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("exported")
    for name in NAMES:
        arguments = ["export", str(run_dirs[name]), "--out", str(out / name)]
        assert run("python -m bertds", COMMANDS, arguments) == 0
    return {name: out / name for name in NAMES}


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_library_computes_what_the_run_learned(run_dirs, exported, name):
    """Logits of one sequence alone and of padded ones, up to the longest."""
    there = transformers.AutoModelForMaskedLM.from_pretrained(exported[name])
    assert type(there).__name__ == CLASSES[name.split("_")[0]]
    assert not there.training
    model = TrainedRun.open(run_dirs[name], "latest").model()
    generator = np.random.default_rng(0)
    lengths = np.array([64, 1, 30])
    ids = generator.integers(5, model.head.decoder.out_features, lengths.sum())
    everywhere = np.arange(ids.size)
    sequences = MaskedSequences.masked_at(everywhere, tokens=ids, inputs=ids, lengths=lengths)
    rows = to_device(torch.device("cpu"), pack(sequences, row_length=64, pad_id=0))
    ours = model.logits(rows).split(lengths.tolist())
    inputs = torch.zeros(3, 64, dtype=torch.long)
    for row, part in zip(inputs, np.split(ids, lengths.cumsum()[:-1]), strict=True):
        row[: part.size] = torch.from_numpy(part)
    theirs = there(input_ids=inputs, attention_mask=(inputs > 0).long()).logits
    for row, length, expected in zip(theirs, lengths, ours, strict=True):
        torch.testing.assert_close(row[:length], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_hold_the_checkpoint_to_the_byte(run_dirs, exported, name):
    trained = TrainedRun.open(run_dirs[name], "latest")
    model = trained.model()
    for key, weight in read_weights(trained.checkpoint.path).items():
        assert torch.equal(model.get_parameter(key), weight)
    written = load_file(exported[name] / "model.safetensors")
    expected = to_hf_state_dict(model, 0)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_a_pipeline_fills_masks_as_fill_does(run_dirs, exported, capsys):
    text = "ba co [MASK] fin go"
    fill = transformers.pipeline("fill-mask", str(exported["prenorm_of_two"]))
    code, printed, _ = command(capsys, "fill", run_dirs["prenorm_of_two"], text)
    assert code == 0
    theirs = [(round(guess["score"], 3), guess["token_str"]) for guess in fill(text)]
    ours = [line.split() for line in printed.splitlines()]
    assert [round(float(line[0].rstrip("%")) / 100, 3) for line in ours] == pytest.approx(
        [score for score, _ in theirs], abs=1.01e-3
    )
    assert [line[1] for line in ours] == [token for _, token in theirs]


def test_the_card_says_figures_data_and_case(run_dirs, exported, tmp_path, capsys):
    card = (exported["bert"] / "README.md").read_text()
    (line,) = [x for x in lines_of(run_dirs["bert"]) if x["step"] == 6 and "loss/valid" in x]
    assert f"| loss/valid/some | {line['loss/valid/some']:.4f} |" in card
    assert "| ko | training | 400 |" in card
    assert json.loads(card.split("```json\n")[1].split("```")[0])["train_batch_size"] == 32
    out = tmp_path / "third"
    assert command(capsys, "export", run_dirs["bert"], f"--out={out}", "--checkpoint=3")[0] == 0
    assert "for 3 steps" in (out / "README.md").read_text()


def test_nothing_is_overwritten_or_left_half_written(run_dirs, tmp_path, capsys):
    run_dir = shutil.copytree(run_dirs["bert"], tmp_path / "case" / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("stays")
    code, _, said = command(capsys, "export", run_dir, "--out", out)
    assert (code, said.count("\n")) == (2, 1)
    assert f"{out} exists and is not empty" in said
    (out / "mine").unlink()
    content = json.loads((run_dir / "case.json").read_text())
    content["config"]["bertds"]["model"]["intermediate_size"] = 40
    (run_dir / "case.json").write_text(json.dumps(content))
    code, _, said = command(capsys, "export", run_dir, "--out", out)
    assert code == 4
    assert "feed_forward.input" in said
    content["config"]["bertds"]["model"] |= {"intermediate_size": 48, "feed_forward": "glu"}
    (run_dir / "case.json").write_text(json.dumps(content))
    code, _, said = command(capsys, "export", run_dir, "--out", out)
    assert code == 2
    assert "model.feed_forward" in said
    assert [path.name for path in tmp_path.iterdir()] == ["case", "out"]
    assert not [*out.iterdir()]
    shutil.rmtree(run_dir)
    shutil.copytree(run_dirs["bert"], run_dir)
    assert command(capsys, "export", run_dir, "--out", out)[0] == 0  # an empty directory serves
    assert len([*out.iterdir()]) == 5


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
def test_the_librarys_trainer_fine_tunes_it(exported, tmp_path, name):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    for file, count in (("train", 40), ("test", 8)):
        rows = [f"ba co der fin go {'hal' if n % 2 else 'ith'}\t{n % 2}" for n in range(count)]
        (tmp_path / f"{file}.tsv").write_text("\n".join(rows))
    files = [str(tmp_path / "train.tsv"), str(tmp_path / "test.tsv")]
    config = json.dumps({"max_steps": 2, "batch": 8, "rates": [1e-4, 1e-3], "seeds": [0, 1]})
    program = [sys.executable, "benchmarks/finetune_peer.py", str(exported[name]), *files, config]
    done = subprocess.run(
        program, check=True, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["sizes"] == {"train": 40, "test": 8}
    assert answer["most_frequent"] == 0.5
    assert answer["found"].keys() == {"pre-trained", "random weights"}
    for found in answer["found"].values():
        assert found["rate"] in (1e-4, 1e-3)
        assert [0 <= one <= 1 for one in found["accuracies"]] == [True, True]
