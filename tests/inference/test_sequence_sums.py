"""The sums of each validation sequence, and what pairs them over runs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bertds import cli
from bertds.data.validation import valid_micro_batches
from bertds.inference.evaluate import open_evaluation
from bertds.inference.sequence_sums import (
    SequenceSums,
    read_sequence_sums,
    sequence_sums,
    write_sequence_sums,
)
from bertds.runs.trained_run import TrainedRun
from data_prep.__main__ import COMMANDS
from data_prep.extended_vocabulary import extended
from tests.helpers.trained_runs import bertds_command
from tests.huggingface.test_pretrained import make_model, write


@pytest.mark.dist
def test_they_add_up_to_the_metrics_of_the_sets(run_dirs, data_root, tmp_path, capsys):
    path = tmp_path / "sums.npz"
    code, stdout, _ = bertds_command(
        capsys, "evaluate", run_dirs["bert"], "--data", data_root, "--sequences", path
    )
    assert code == 0
    printed = {tag: float(value) for tag, value in map(str.split, stdout.splitlines())}
    for name, sums in read_sequence_sums(path).items():
        masked = sums.masked.sum()
        loss = sums.nats.astype(float).sum() / masked
        assert loss == pytest.approx(printed[f"loss/valid/{name}"], rel=1e-6)
        assert sums.correct.sum() / masked == printed[f"acc/valid/{name}"]
        bits = loss / math.log(2) * sums.maskable.sum() / sums.characters.sum()
        # Training knows the characters of the whole set only, and some are not in the vocabulary.
        assert bits == pytest.approx(printed[f"bits_per_character/valid/{name}"], rel=0.1)


@pytest.mark.dist
def test_a_sequence_has_the_same_sums_in_every_batch(run_dirs, data_root):
    trained = TrainedRun.open(run_dirs["bert"], "latest")
    evaluation = open_evaluation(trained, data_root)
    together = sequence_sums(evaluation, trained.tokenizer)["en"]
    alone = replace(evaluation, spec=replace(evaluation.spec, micro_batch_size=1, world_size=3))
    single = sequence_sums(alone, trained.tokenizer)["en"]
    assert len(single.text) == evaluation.sets["en"].subset.num_sequences  # of all ranks
    np.testing.assert_allclose(single.nats, together.nats, rtol=1e-4)
    for field in ("correct", "masked", "maskable", "characters", "text"):
        assert np.array_equal(getattr(single, field), getattr(together, field))
    (sequences,) = valid_micro_batches(
        evaluation.sets["en"],
        replace(evaluation.spec, micro_batch_size=1 << 20, world_size=1),
    )
    texts = [
        trained.tokenizer.decode(part.tolist())
        for part in np.split(sequences.tokens, sequences.ends[1:-1])
    ]
    assert single.characters.tolist() == [len(text) for text in texts]
    assert len(set(single.text.tolist())) == len(set(texts))


def test_a_model_has_the_texts_of_shards_with_more_tokens(tokenizer, lines, tmp_path, capsys):
    """Before it is continued with them, so that both can be compared sequence by sequence."""
    hub = write(make_model(tokenizer, preset="bert"), tokenizer, tmp_path / "hub")
    words = [word for line in lines["en"] for word in tokenizer.words(line)]
    longer = extended(tokenizer, dict.fromkeys(words, 3), 20)
    texts = [line for line in lines["en"] if len(longer.encode_batch([line])[0]) < 60][:8]
    (tmp_path / "text.txt").write_text("\n".join(texts))
    (tmp_path / "longer.json").write_bytes(longer.content)
    shard = ["shard", "--input", tmp_path / "text.txt", "--tokenizer", tmp_path / "longer.json"]
    flags = ["--out", tmp_path / "data/new", "--seq_len", 64, "--workers", 1]
    flags += ["--valid_fraction", 0.5, "--special_tokens", "false"]
    assert cli.run("data_prep", COMMANDS, [str(each) for each in (*shard, *flags)]) == 0
    path = tmp_path / "sums.npz"
    flags = ["--data", tmp_path / "data", "--valid", "new/valid", "--sequences", path]
    assert bertds_command(capsys, "evaluate", hub, *flags)[0] == 0
    sums = read_sequence_sums(path)["new/valid"]
    assert len(sums.characters)
    assert {*sums.characters.tolist()} <= {len(text) for text in texts}


def test_a_file_that_holds_something_else_is_named(tmp_path):
    path = tmp_path / "sums.npz"
    sums = SequenceSums(**dict.fromkeys(SequenceSums.__slots__, np.arange(3)))
    write_sequence_sums(path, {"ko": sums, "en": sums})
    assert read_sequence_sums(path).keys() == {"ko", "en"}
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="sums.npz does not have the sums of sequences"):
        read_sequence_sums(path)
