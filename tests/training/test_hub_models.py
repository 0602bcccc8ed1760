"""Small random models, saved by transformers with their kind of tokenizer, are continued.

From text to an exported model, with the commands of a user: `data_prep shard`, `init --from`, training
and `export`.
"""

import json
from pathlib import Path

import pytest
import torch

from bertds.cli import run
from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.training.session import Session
from bertds.training.setup import prepare_run
from data_prep.__main__ import COMMANDS
from tests.helpers.hub_tokenizers import hub_backend, hub_tokenizer
from tests.helpers.trained_runs import bertds_command

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.dist
CLASSES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
# The learning rate is too small to change a weight.
STILL = (
    "optimizer.params.lr=1e-30,optimizer.params.weight_decay=0,scheduler=null,train_batch_size=8,"
    "run.num_epochs=null,run.max_steps=1,run.save_every=1,run.eval_every=1"
)


def save_model(preset: str, tokenizer, directory: Path):
    """A model with random weights, also those that are 0 or 1 at first."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{CLASSES[preset]}Config")(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=48 + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.3,
    )
    model = getattr(transformers, f"{CLASSES[preset]}ForMaskedLM")(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer.content)
    return model


@pytest.mark.parametrize("preset", CLASSES)
def test_logits_and_pairs_are_those_of_the_model(preset, lines, device, tmp_path, capsys):
    """The exported directory has the same class, gives the same ids, and equal logits."""
    texts = [*lines["ko"][:60], *lines["en"][:60]]
    tokenizer, theirs = hub_tokenizer(preset, texts), hub_backend(preset, texts)
    hub, data, case_file = tmp_path / "hub", tmp_path / "data/corpus", tmp_path / "case.json"
    model = save_model(preset, tokenizer, hub)
    (tmp_path / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    shard = ["shard", "--input", tmp_path / "text.txt", "--tokenizer", hub, "--out", data]
    flags = ["--seq_len", 48, "--valid_fraction", 0.1, "--workers", 1]
    assert run("data_prep", COMMANDS, [str(each) for each in (*shard, *flags)]) == 0
    init = ["init", "--from", hub, "--data", data, "--out", case_file]
    assert bertds_command(capsys, *init)[0] == 0
    assert json.loads(case_file.read_text())["bertds"]["model"] == {
        "preset": preset,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 48,
        "type_vocab_size": 1,
    }
    case, run_dir = read_case(case_file, "main", STILL), tmp_path / "run"
    assert Session(World(), device).train(prepare_run(case, data.parent, run_dir, World())) == 0
    code, stdout, _ = bertds_command(capsys, "fill", run_dir, "ba <mask> go")
    assert code == 0
    assert "<s>" not in stdout
    out = tmp_path / "exported"
    assert bertds_command(capsys, "export", run_dir, "--out", out)[0] == 0
    exported = transformers.AutoModelForMaskedLM.from_pretrained(out)
    assert type(exported) is type(model)
    ours = transformers.AutoTokenizer.from_pretrained(out)
    for text in [("ba co",), ("ba <mask> co", "der fin"), (texts[3], texts[70])]:
        ids = theirs.encode(*text).ids
        assert ours(*text).input_ids == ids
        inputs = torch.tensor([ids])[:, :48]
        with torch.no_grad():
            found, expected = (each(input_ids=inputs).logits for each in (exported, model))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
