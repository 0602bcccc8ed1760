"""A model with an extended tokenizer: old tokens keep their rows, new ones start at a mean."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertds.data.new_tokens import pieces_of_new_tokens
from bertds.data.tokenizer import Tokenizer
from bertds.huggingface.config import config_json
from bertds.huggingface.model_block import model_block
from bertds.huggingface.pretrained import open_pretrained
from bertds.huggingface.source_model import SourceModel
from bertds.model.mlm import UNUSED_BIAS
from data_prep.extended_vocabulary import extended
from tests.huggingface.test_pretrained import make_config, make_model, write

transformers = pytest.importorskip("transformers")


@pytest.fixture
def longer(tokenizer, lines) -> Tokenizer:
    """The tokenizer, extended by words of a text."""
    words = [word for line in lines["en"][:200] for word in tokenizer.words(line)]
    return extended(tokenizer, dict.fromkeys(words, 3), 10)


def padded_source(tokenizer: Tokenizer, directory: Path, *, tied: bool) -> tuple[Path, int]:
    """A model with more rows than its tokenizer has ids."""
    multiple = next(n for n in (16, 32) if tokenizer.vocab_size % n)
    fields = {"tie_word_embeddings": tied, "pad_vocab_to_multiple_of": multiple}
    model = make_model(tokenizer, preset="bert", **fields)
    torch.nn.init.normal_(model.head.decoder.bias)
    return write(model, tokenizer, directory), multiple


@pytest.mark.parametrize("tied", [True, False])
def test_old_rows_are_kept_and_new_ones_are_means_of_their_pieces(
    tokenizer, longer, tmp_path, tied
):
    source, multiple = padded_source(tokenizer, tmp_path / "hub", tied=tied)
    fields = {"preset": "bert", "tie_word_embeddings": tied, "pad_vocab_to_multiple_of": multiple}
    config = make_config(**fields)
    before = open_pretrained(source, config, tokenizer).weights()
    pretrained = open_pretrained(source, config, longer)
    assert f"{longer.vocab_size - tokenizer.vocab_size} tokens are new" in pretrained.notes()[0]
    after, old_ids = pretrained.weights(), tokenizer.vocab_size
    pieces = pieces_of_new_tokens(tokenizer, longer)
    assert all(len(ids) > 1 for ids in pieces)
    model = make_model(longer, seed=1, **fields)
    assert {name: w.shape for name, w in after.items()} == {
        name: parameter.shape for name, parameter in model.named_parameters()
    }
    tables = ["encoder.embeddings.tokens.weight", "head.decoder.bias"]
    tables += [] if tied else ["head.decoder.weight"]
    for name in tables:
        old, new = before[name][:old_ids], after[name]
        assert torch.equal(new[:old_ids], old)
        for number, ids in enumerate(pieces, old_ids):
            expected = sum(old[piece] for piece in ids) / len(ids)
            torch.testing.assert_close(new[number], expected)
        unused = UNUSED_BIAS if name.endswith("bias") else 0
        assert (new[longer.vocab_size :] == unused).all()
    for name in after.keys() - tables:
        assert torch.equal(after[name], before[name])


def test_the_export_has_the_extended_tokenizer_alone(tokenizer, longer, tmp_path):
    """A vocab.txt of the shorter vocabulary would contradict tokenizer.json."""
    source, multiple = padded_source(tokenizer, tmp_path / "hub", tied=True)
    (source / "vocab.txt").write_text("[PAD]\n")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 77}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    config = make_config(preset="bert", pad_vocab_to_multiple_of=multiple)
    run_dir = tmp_path / "run"
    for _ in range(2):  # also after a start that was interrupted
        SourceModel.keep(open_pretrained(source, config, longer), run_dir)
    kept = SourceModel.of_run(run_dir)
    SourceModel.copy(run_dir, tmp_path / "branch")
    assert SourceModel.of_run(tmp_path / "branch").tensors() == kept.tensors() == {}
    kept = SourceModel.of_run(tmp_path / "branch")
    names = {path.name for path in kept.tokenizer_files}
    assert names == {"tokenizer.json", "tokenizer_config.json"}
    for path in kept.tokenizer_files:
        shutil.copyfile(path, tmp_path / path.name)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == longer.vocab_size
    assert loaded.model_max_length == 77
    ours = config_json(config, longer.vocab_size, longer.special_ids)
    assert kept.config(ours)["vocab_size"] == config.padded_vocab_size(longer.vocab_size)
    assert model_block(source)["pad_vocab_to_multiple_of"] == multiple
