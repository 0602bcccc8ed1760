"""`python -m bertds probe`: each token is masked alone, whatever is packed together."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bertds.data.packing import MaskedSequences, pack
from bertds.inference import probe
from bertds.inference.export import export
from bertds.inference.probe import open_probe
from bertds.model.batch import to_device
from bertds.runs.trained_run import TrainedRun
from tests.helpers.trained_runs import bertds_command

RUN = Path(__file__).parents[1] / "golden" / "earlier_version" / "run"
LINES = ["가나 달 모빛", "ba co der", "", "소", "der der der 나"]


@torch.no_grad()
def nats_one_by_one(of, lines):
    """The loss of each token, in a batch of its own."""
    total, mask_id = 0.0, of.tokenizer.special_ids["mask"]
    for line in lines:
        (ids,) = of.tokenizer.encode_batch([line])
        for place, number in enumerate(ids):
            if number in of.tokenizer.unmaskable_ids:
                continue
            tokens = np.array(ids)
            inputs = np.where(np.arange(len(ids)) == place, mask_id, tokens)
            sequence = MaskedSequences.masked_at(
                np.array([place]), tokens=tokens, inputs=inputs, lengths=np.array([len(ids)])
            )
            batch = to_device(torch.device("cpu"), pack(sequence, row_length=len(ids), pad_id=0))
            total -= float(of.model.logits(batch).log_softmax(-1)[0, number])
    return total


@pytest.mark.parametrize("tokens", [8192, 16, 1])
def test_packing_changes_nothing(monkeypatch, tokens):
    monkeypatch.setattr(probe, "_PACK_TOKENS", tokens)
    opened = open_probe(RUN, "latest")
    result = opened.score(LINES)
    nats = nats_one_by_one(opened, LINES)
    assert result.nats == pytest.approx(nats, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / result.tokens), rel=1e-5)
    characters = sum(map(len, LINES))
    assert result.bits_per_character == pytest.approx(nats / math.log(2) / characters, rel=1e-5)
    assert (result.lines, result.empty_lines, result.cut_lines) == (5, 1, 0)
    ids = sum(map(len, opened.tokenizer.encode_batch(LINES)))
    assert result.tokens + result.unknown == ids


def test_a_long_line_is_cut_and_nothing_is_lost():
    opened = open_probe(RUN, "latest")
    line = "가나 달 모빛 " * 20
    (ids,) = opened.tokenizer.encode_batch([line.strip()])
    result = opened.score([line, "ba"])
    assert len(ids) > opened.model.config.max_position_embeddings
    assert result.cut_lines == 1
    (short,) = opened.tokenizer.encode_batch(["ba"])
    assert result.tokens + result.unknown == len(ids) + len(short)


def test_a_run_and_its_export_have_the_same_figures(tmp_path, capsys):
    export(TrainedRun.open(RUN, "latest"), tmp_path / "model")
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress("\n".join(LINES).encode()))
    outputs = [bertds_command(capsys, "probe", model, path) for model in (RUN, tmp_path / "model")]
    assert outputs[0] == outputs[1]
    code, out, _ = outputs[0]
    assert code == 0
    assert out.splitlines()[0].startswith("pseudo-perplexity ")
    _, fewer, _ = bertds_command(capsys, "probe", RUN, path, "--limit", 2)
    assert "lines                                   2" in fewer


def test_special_tokens_frame_a_sequence_and_are_not_scored():
    opened = open_probe(RUN, "latest")
    ids = opened.tokenizer.special_ids
    framed = probe.Probe(
        model=opened.model, tokenizer=opened.tokenizer, framing=([ids["cls"]], [ids["sep"]])
    )
    plain, result = opened.score(LINES), framed.score(LINES)
    assert (plain.tokens, plain.characters) == (result.tokens, result.characters)
    assert plain.nats != result.nats


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n \n", "no tokens to predict (2 lines)"),
        (b"a\n\xff\n", "cannot be read as UTF-8"),
    ],
)
def test_a_text_that_cannot_be_scored(tmp_path, capsys, content, words):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    code, out, errors = bertds_command(capsys, "probe", RUN, path)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert words in errors
