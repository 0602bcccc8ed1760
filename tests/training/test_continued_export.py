"""A continued model loses nothing: its export computes the same, and has all that was in the source."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing

from bertds.inference.export import export
from bertds.runs.trained_run import TrainedRun
from tests.helpers.launching import run
from tests.helpers.trained_runs import CASE

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.dist

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 48, "initializer_range": 0.1}  # fmt: skip
# Keys that training does not read.
UNREAD = {"attention_probs_dropout_prob": 0.37, "classifier_dropout": 0.21,
          "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}  # fmt: skip
BERT = {"max_position_embeddings": 96, "type_vocab_size": 2, **UNREAD}
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForPreTraining", "bert", BERT),
    "bare_bert": ("BertModel", "bert", BERT),
    "prenorm": ("RobertaPreLayerNormForMaskedLM", "bert-prenorm",
                {**BERT, "type_vocab_size": 3, "max_position_embeddings": 97}),
    "modernbert": ("ModernBertForMaskedLM", "modernbert",
                   {"max_position_embeddings": 96, "local_attention": 8, "classifier_dropout": 0.2,
                    "classifier_pooling": "mean", "mlp_dropout": 0.05}),
}  # fmt: skip
TEXTS = ["ba co [MASK] fin go", "가 나 달"]
PAIR = ("ba co der", "fin [MASK]")


@pytest.fixture(scope="module")
def sources(tokenizer, tmp_path_factory) -> dict[str, Path]:
    """A small random model of each class, as `save_pretrained` writes it."""
    root = tmp_path_factory.mktemp("hub")
    return {name: save(tokenizer, root / name, name) for name in CLASSES}


def save(tokenizer, directory: Path, name: str) -> Path:
    hf_class, _, options = CLASSES[name]
    model_class = getattr(transformers, hf_class)
    config = model_class.config_class(
        vocab_size=tokenizer.vocab_size, pad_token_id=0, **SIZES, **options
    )
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(directory)
    backend = tokenizers.Tokenizer.from_str(tokenizer.content.decode())
    cls, sep = (tokenizer.special_ids[role] for role in ("cls", "sep"))
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=77,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(directory)  # fmt: skip
    return directory


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
    _, preset, options = CLASSES[name]
    keys = ("type_vocab_size", "local_attention")
    block = {key: options[key] for key in keys if key in options}
    return {**SIZES, "max_position_embeddings": 96, "preset": preset, **block}


def exported(run_dir: Path, out: Path) -> Path:
    export(TrainedRun.open(run_dir, "latest"), out)
    return out


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSES)
def test_an_export_of_unchanged_weights_equals_the_source(sources, run_dirs, tmp_path, name):
    source, out = sources[name], exported(run_dirs[f"{name}_still"], tmp_path / "out")
    auto = transformers.AutoModel if name == "bare_bert" else transformers.AutoModelForMaskedLM
    before, after = (auto.from_pretrained(path).eval() for path in (source, out))
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(path) for path in (source, out))
    for texts in ((TEXTS,), *((a, b) for a, b in [PAIR])):
        expected = theirs(*texts, padding=True, return_tensors="pt")
        inputs = ours(*texts, padding=True, return_tensors="pt")
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[key], expected[key]) for key in inputs)
        if name == "modernbert":  # its class has no token types
            inputs.pop("token_type_ids")
        for given, wanted in zip(
            after(**inputs).to_tuple(), before(**inputs).to_tuple(), strict=True
        ):
            torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    if name == "bert":
        assert inputs["token_type_ids"].any()  # of the pair


@pytest.mark.parametrize("name", CLASSES)
def test_an_export_has_all_that_was_in_the_source(sources, run_dirs, tmp_path, name):
    source, out = sources[name], exported(run_dirs[name], tmp_path / "out")
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, out))
    class_of = {"bert": "BertForMaskedLM", "bare_bert": "BertForMaskedLM"}
    assert after.pop("architectures") == [class_of.get(name, CLASSES[name][0])]
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
        if name == "prenorm" and "position_embeddings" in key:
            first += 1
        assert torch.equal(ours[key], tensor) == is_unplaced, key
        # Training reads positions up to its longest sequence, and the first token type.
        if first:
            assert torch.equal(ours[key][first:], tensor[first:]), key
