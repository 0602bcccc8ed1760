"""`python -m bertds fill`: the most likely tokens for each [MASK], as the model sees it."""

import pytest
import torch

from bertds.__main__ import COMMANDS
from bertds.cli import run
from bertds.inference.fill_mask import fill
from bertds.model.batch import DeviceBatch
from bertds.runs.trained_run import TrainedRun

pytestmark = pytest.mark.dist


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    code = run("python -m bertds", COMMANDS, [str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_probabilities_are_those_of_the_whole_vocabulary(run_dirs):
    trained = TrainedRun.open(run_dirs["bert"], "latest")
    size = trained.tokenizer.vocab_size
    guesses = fill(trained, trained.model(), "가나 [MASK] 달래 [MASK]", size)
    assert len(guesses) == 2 * size
    for mask in (0, 1):
        some = [guess.probability for guess in guesses if guess.mask == mask]
        assert sum(some) == pytest.approx(1, abs=1e-4)
        assert some == sorted(some, reverse=True)


def test_a_long_text_gets_what_the_model_says(run_dirs):
    """The first guess is the model's on the same ids laid out by hand."""
    trained = TrainedRun.open(run_dirs["modernbert_bf16"], "latest")
    words = "ba co der fin go hal"
    (guess,) = fill(trained, trained.model(), f"{words} [MASK] {words}", 1)
    tokenizer, model = trained.tokenizer, trained.model()
    (ids,) = tokenizer.encode_batch([words])
    sequence = torch.tensor([*ids, tokenizer.special_ids["mask"], *ids])
    size = sequence.numel()
    one = DeviceBatch(
        inputs_T=sequence,
        positions_T=torch.arange(size),
        segments_T=torch.zeros(size, dtype=torch.int32),
        cumulative=torch.tensor([0, size], dtype=torch.int32),
        masked_M=torch.tensor([len(ids)]),
        labels_M=torch.tensor([0]),
        rows=((1, size),),
        max_length=size,
    )
    likely = model.logits(one).detach().softmax(-1)[0].max(0)
    assert guess.probability == pytest.approx(float(likely.values), rel=1e-5)
    assert guess.token == tokenizer.decode([int(likely.indices)])
    assert guess.text.startswith(f"{words} ")


def test_the_table_is_read_by_people(run_dirs, capsys):
    code, printed, _ = command(
        capsys, "fill", run_dirs["bert"], "가나 [MASK] 달래 [MASK]", "--top", 3
    )
    assert code == 0
    lines = printed.splitlines()
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
def test_what_cannot_be_filled_is_one_sentence(run_dirs, capsys, text, flags, words):
    code, printed, said = command(capsys, "fill", run_dirs["bert"], f"--text={text}", *flags)
    assert (code, printed, said.count("\n")) == (2, "", 1)
    assert words in said
