"""`python -m bertds fill` predicts the most likely tokens for each [MASK]."""

import pytest
import torch

from bertds import load_model
from bertds.inference.embed import embed
from bertds.inference.fill_mask import fill
from bertds.model.batch import DeviceBatch
from bertds.runs.trained_run import TrainedRun
from tests.helpers.trained_runs import bertds_command

pytestmark = pytest.mark.dist


def test_probabilities_over_the_vocabulary_sum_to_one(run_dirs):
    trained = TrainedRun.open(run_dirs["bert"], "latest")
    size = trained.tokenizer.vocab_size
    predictions = fill(trained, trained.model(), "가나 [MASK] 달래 [MASK]", size)
    assert len(predictions) == 2 * size
    for mask in (0, 1):
        probabilities = [p.probability for p in predictions if p.mask == mask]
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)
        assert probabilities == sorted(probabilities, reverse=True)


def test_prediction_equals_the_models_output(run_dirs):
    """For the same ids in a batch built by hand."""
    trained = TrainedRun.open(run_dirs["modernbert_bf16"], "latest")
    words = "ba co der fin go hal"
    (prediction,) = fill(trained, trained.model(), f"{words} [MASK] {words}", 1)
    tokenizer, model = trained.tokenizer, trained.model()
    (ids,) = tokenizer.encode_batch([words])
    sequence = torch.tensor([*ids, tokenizer.special_ids["mask"], *ids])
    size = sequence.numel()
    batch = DeviceBatch(
        inputs_T=sequence,
        positions_T=torch.arange(size),
        segments_T=torch.zeros(size, dtype=torch.int32),
        cumulative=torch.tensor([0, size], dtype=torch.int32),
        masked_M=torch.tensor([len(ids)]),
        labels_M=torch.tensor([0]),
        rows=((1, size),),
        max_length=size,
    )
    likely = model.logits(batch).detach().softmax(-1)[0].max(0)
    assert prediction.probability == pytest.approx(float(likely.values), rel=1e-5)
    assert prediction.token == tokenizer.decode([int(likely.indices)])
    assert prediction.text.startswith(f"{words} ")


def test_command_prints_a_table_per_mask(run_dirs, capsys):
    code, stdout, _ = bertds_command(
        capsys, "fill", run_dirs["bert"], "가나 [MASK] 달래 [MASK]", "--top", 3
    )
    assert code == 0
    lines = stdout.splitlines()
    assert [line.startswith("[MASK] ") for line in lines] == [True, *[False] * 3] * 2
    assert all("%" in line and "▁" not in line for line in lines[1:4])


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("가나 달래", (), "has no [MASK]"),
        ("", (), "has no [MASK]"),
        ("ba " * 100 + "[MASK]", (), "the model takes 64"),
        ("[MASK]", ("--top", 0), "--top is 0"),
        ("[MASK]", ("--top", 10**6), "--top is 1000000"),
    ],
)
def test_invalid_input_is_a_one_line_error(run_dirs, capsys, text, flags, words):
    code, stdout, stderr = bertds_command(
        capsys, "fill", run_dirs["bert"], f"--text={text}", *flags
    )
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert words in stderr


def test_any_text_is_cleaned_like_a_line_of_the_shards(run_dirs, capsys):
    """What is no UTF-8 on the command line, line breaks, control characters: never a traceback."""
    trained = TrainedRun.open(run_dirs["bert"], "latest")
    model = trained.model()
    plain = fill(trained, model, "가나 [MASK] 달래", 2)
    assert fill(trained, model, " 가\0나\n [MASK]\t\u3000달래\ufeff ", 2) == plain
    # Close, not equal: the rows of one product may be added in another order.
    torch.testing.assert_close(*embed(trained, model, ["가나 달래", "\r가나\x1b \u2028달래\n"]))
    code, stdout, _ = bertds_command(capsys, "fill", run_dirs["bert"], "\udcea가 [MASK] \ud800")
    assert code == 0
    stdout.encode()
    (hidden,) = embed(trained, model, ["\udcff"])
    torch.testing.assert_close(hidden, *embed(trained, model, ["\ufffd"]))


def test_a_model_is_shown_in_one_short_line(run_dirs):
    """Neither tokenizer nor weights, which have hundreds of thousands of characters."""
    model = load_model(run_dirs["bert"])
    assert repr(model) == (
        f"Model({str(run_dirs['bert'])!r}, step_0000000006, "
        f"{sum(each.numel() for each in model.module.parameters()):,} parameters, "
        f"{model.trained.tokenizer.vocab_size:,} tokens)"
    )
    for part in (model.trained, model.trained.tokenizer, model.trained.checkpoint):
        assert len(repr(part)) < 300
