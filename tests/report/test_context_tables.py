"""Tables of what an encoder reads from context."""

import json
import math

import pytest

from bertds.report.context_tables import context_tables, plateau_step
from bertds.report.run_data import load_arms
from tests.helpers.fake_runs import write_run

BASELINE = {"loss": 5.0, "accuracy": 0.1, "accuracy_mask": 0.05, "accuracy_kept": 0.9}
BASELINE["neighbour"] = {"loss": 4.0, "accuracy": 0.2, "accuracy_mask": 0.1, "accuracy_kept": 0.9}


def validations(*losses, **metrics):
    return [
        {"step": step, "loss/valid": loss, "acc/valid": 0.1, **metrics}
        for step, loss in zip(range(10, 1000, 10), losses)
    ]


def arms_of(tmp_path, **lines):
    for name, each in lines.items():
        write_run(tmp_path, "case1", name, each, baseline=BASELINE)
    return load_arms(tmp_path / "case1")


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((6.0, 5.4, 4.4, 4.95), 25),  # halfway between 5.4 and 4.4 is 4.9, 0.1 under 5.0
        ((4.0, 3.0), 10),
        ((6.0, 5.0, 4.95), math.nan),
        ((math.nan, 4.0), 20),
        ((), math.nan),
    ],
)
def test_the_plateau_ends_where_the_loss_first_is_under_the_baseline(tmp_path, losses, step):
    (arm,) = arms_of(tmp_path, main=validations(*losses))
    assert plateau_step(arm) == pytest.approx(step, nan_ok=True)


def test_gains_accuracies_and_the_plateau_are_shown(tmp_path):
    places = {"acc_mask/valid": 0.3, "acc_random/valid": 0.2, "acc_kept/valid": 0.95}
    arms = arms_of(tmp_path, good=validations(6.0, 3.5, **places), bad=validations(6.0, 5.5))
    text = "\n".join(context_tables(arms))
    assert "| `good` | 1.500 | 0.500 | 14 |" in text
    assert "| `bad` | -0.500 | -1.500 | – |" in text
    assert "| `good` | 0.3000 | 0.2000 | 0.9500 |" in text
    assert "| neighbour baseline | 0.1000 | – | 0.9000 |" in text
    assert "`bad` | –" not in text
    assert "Bits per character" not in text


def test_the_gain_over_the_start_is_shown(tmp_path):
    lines = validations(6.0, 3.5)
    arms = arms_of(tmp_path, continued=[lines[0] | {"step": 0}, lines[1]], fresh=lines)
    text = "\n".join(context_tables(arms))
    assert "| `continued` | 6.000 | 3.500 | -2.500 | 0.1000 | 0.1000 | 0.0000 |" in text
    assert "| `fresh` | 6.000" not in text


def test_bits_per_character_are_shown_if_the_vocabularies_differ(tmp_path):
    arms_of(tmp_path, small=validations(3.0, **{"bits_per_character/valid": 1.5}))
    other = write_run(
        tmp_path, "case1", "large", validations(4.0, **{"bits_per_character/valid": 1.25})
    )
    content = json.loads((other / "case.json").read_text())
    content["resolved"]["vocab_size"] = 50_000
    (other / "case.json").write_text(json.dumps(content))
    text = "\n".join(context_tables(load_arms(tmp_path / "case1")))
    assert "| `large` | 50,000 | 1.2500 |" in text
    assert "| `small` | 7,458 | 1.5000 |" in text
