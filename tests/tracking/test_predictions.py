"""Sample predictions that training shows in TensorBoard."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertds.data.packing import MaskedSequences, RankBatchSpec
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.validation import masked_valid, open_valid
from bertds.data.vocabulary import Vocabulary
from bertds.inference.evaluate import _batch_spec
from bertds.model.batch import to_device
from bertds.runs.trained_run import TrainedRun
from bertds.tracking.predictions import MAX_TOKENS, SamplePredictions, _Sample
from tests.helpers.trained_runs import NAMES

TAGS = ["examples/en 1", "examples/en 2", "examples/some 1", "examples/some 2"]


def texts(run_dir, tag):
    events = EventAccumulator(str(run_dir / "tb"), size_guidance={"tensors": 0})
    events.Reload()
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}


@pytest.mark.dist
@pytest.mark.parametrize("name", NAMES)
def test_all_validations_of_all_runs_show_the_same_sequences(run_dirs, name):
    for tag in TAGS:
        shown = texts(run_dirs[name], tag)
        assert list(shown) == [3, 6]
        inputs = {text.split("\n\n")[0] for text in shown.values()}
        assert len(inputs) == 1
        assert inputs == {texts(run_dirs["bert"], tag)[3].split("\n\n")[0]}
        assert "**" in inputs.pop()


@pytest.mark.dist
@pytest.mark.parametrize("name", ["bert", "prenorm_of_two"])
def test_shown_predictions_equal_the_models_output(run_dirs, data_root, name):
    trained = TrainedRun.open(run_dirs[name], "latest")
    subsets = open_valid(trained.case, data_root)
    vocabulary = Vocabulary.of(list(subsets.values()))
    sets = {
        name: masked_valid(trained.case.bertds.masking, subset, vocabulary)
        for name, subset in subsets.items()
    }
    spec = _batch_spec(trained, subsets, vocabulary)
    samples = SamplePredictions(sets, spec, vocabulary.directory / TOKENIZER_NAME)
    model = trained.model()
    with torch.no_grad():
        logits = [model.logits(to_device(torch.device("cpu"), pack)) for pack in samples.packs]
    expected = samples.as_markdown(logits)
    assert sorted(expected) == TAGS
    for tag, text in expected.items():
        assert texts(run_dirs[name], tag)[6] == text


def test_long_sequence_is_cut_and_tokens_are_escaped(tmp_path, tokenizer):
    path = tmp_path / TOKENIZER_NAME
    path.write_bytes(tokenizer.content)
    ids = np.full(3 * MAX_TOKENS, 9)
    is_masked = np.zeros(ids.size, dtype=bool)
    is_masked[[1, 2 * MAX_TOKENS]] = True
    sequence = MaskedSequences.of(
        ids,
        np.where(is_masked, tokenizer.special_ids["mask"], ids),
        is_masked,
        np.array([ids.size]),
    )
    spec = RankBatchSpec(rank=0, world_size=1, micro_batch_size=1, row_length=256, pad_id=0)
    samples = SamplePredictions({}, spec, path)
    samples._samples = [_Sample("long", spec.pack(sequence))]
    logits = torch.zeros(2, tokenizer.vocab_size)
    logits[:, 9] = 20.0
    logits[:, 1] = 10.0
    (text,) = samples.as_markdown([logits]).values()
    (name,) = samples._names([9])
    shown, table = text.split("\n\n")
    assert shown.endswith(" …")
    assert shown.count("\\[MASK\\]") == 1
    table = table.splitlines()
    assert len(table) == 3
    assert table[2].startswith(f"| **{name}** | **{name}** 100.0%, \\[UNK\\] 0.0%,")
