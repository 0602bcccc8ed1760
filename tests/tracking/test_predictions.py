"""Masked validation sequences, told in words: what training shows of itself in TensorBoard."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertds.data.packing import MaskedSequences, RankBatchSpec
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.validation import masked_valid, open_valid
from bertds.data.vocabulary import Vocabulary
from bertds.inference.evaluate import _share
from bertds.model.batch import to_device
from bertds.runs.trained_run import TrainedRun
from bertds.tracking.predictions import MOST_TOKENS, SamplePredictions, _Example
from tests.helpers.trained_runs import NAMES

TAGS = ["examples/en 1", "examples/en 2", "examples/some 1", "examples/some 2"]


def texts(run_dir, tag):
    events = EventAccumulator(str(run_dir / "tb"), size_guidance={"tensors": 0})
    events.Reload()
    return {one.step: one.tensor_proto.string_val[0].decode() for one in events.Tensors(tag)}


def examples_of(trained, data_root):
    parts = open_valid(trained.case, data_root)
    vocabulary = Vocabulary.of(list(parts.values()))
    sets = {name: masked_valid(trained.case, part, vocabulary) for name, part in parts.items()}
    share = _share(trained, parts, vocabulary)
    return SamplePredictions(sets, share, vocabulary.directory / TOKENIZER_NAME)


@pytest.mark.dist
@pytest.mark.parametrize("name", NAMES)
def test_every_validation_of_every_world_tells_the_same_sequences(run_dirs, name):
    for tag in TAGS:
        told = texts(run_dirs[name], tag)
        assert list(told) == [3, 6]
        inputs = {text.split("\n\n")[0] for text in told.values()}
        assert len(inputs) == 1
        assert inputs == {texts(run_dirs["bert"], tag)[3].split("\n\n")[0]}
        assert "**" in inputs.pop()


@pytest.mark.dist
@pytest.mark.parametrize("name", ["bert", "prenorm_of_two"])
def test_what_is_told_is_what_the_model_says(run_dirs, data_root, name):
    trained = TrainedRun.open(run_dirs[name], "latest")
    examples, model = examples_of(trained, data_root), trained.model()
    with torch.no_grad():
        logits = [model.logits(to_device(torch.device("cpu"), one)) for one in examples.packs]
    told = examples.as_markdown(logits)
    assert sorted(told) == TAGS
    for tag, text in told.items():
        assert texts(run_dirs[name], tag)[6] == text


def test_a_long_sequence_is_told_from_its_beginning_and_no_token_is_markup(tmp_path, tokenizer):
    path = tmp_path / TOKENIZER_NAME
    path.write_bytes(tokenizer.content)
    ids = np.full(3 * MOST_TOKENS, 9)
    is_masked = np.zeros(ids.size, dtype=bool)
    is_masked[[1, 2 * MOST_TOKENS]] = True
    rows = MaskedSequences.of(
        ids,
        np.where(is_masked, tokenizer.special_ids["mask"], ids),
        is_masked,
        np.array([ids.size]),
    )
    share = RankBatchSpec(rank=0, world_size=1, micro_batch_size=1, row_length=256, pad_id=0)
    examples = SamplePredictions({}, share, path)
    examples._examples = [_Example("long", share.pack(rows))]
    logits = torch.zeros(2, tokenizer.vocab_size)
    logits[:, 9] = 20.0
    logits[:, 1] = 10.0
    (text,) = examples.as_markdown([logits]).values()
    (name,) = examples._names([9])
    given, table = text.split("\n\n")
    assert given.endswith(" …")
    assert given.count("\\[MASK\\]") == 1
    table = table.splitlines()
    assert len(table) == 3
    assert table[2].startswith(f"| **{name}** | **{name}** 100.0%, \\[UNK\\] 0.0%,")
