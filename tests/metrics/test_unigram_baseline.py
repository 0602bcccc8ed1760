"""TODO."""

import json
from collections import Counter

import numpy as np
import pytest

from bertds.config.case import read_case
from bertds.data.dataset import DatasetSubset
from bertds.data.validation import masked_valid
from bertds.data.vocabulary import Vocabulary
from bertds.metrics.accumulators import MetricSums, validation_metrics
from bertds.metrics.unigram_baseline import unigram_baseline
from bertds.training.state import TrainState
from tests.helpers.in_process_training import BASE


def masked_by(case, part):
    rows = masked_valid(case, part, Vocabulary.of([part])).read(0, 0)
    return rows.is_masked, rows.lengths


@pytest.mark.parametrize("ratio", [0.15, 0.4])
def test_validation_has_a_ratio_of_its_own(data_root, tmp_path, ratio):
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    part = DatasetSubset.open(data_root, "ko", 1.0)
    own, _ = masked_by(read_case(path, "main", f"masking.ratio={ratio}"), part)
    fixed, lengths = masked_by(
        read_case(path, "main", f"masking.ratio={ratio},masking.valid_ratio=0.15"), part
    )
    usual, _ = masked_by(read_case(path, "main"), part)
    assert np.array_equal(fixed, usual)
    assert np.array_equal(own, usual) == (ratio == 0.15)
    most = np.maximum(1, np.floor(0.15 * lengths + 0.5)).sum()  # if all tokens can be masked
    assert 0 < fixed.sum() <= most


LONG_SET = MetricSums(loss=10.0, correct=1.0, masked=10.0, tokens=50.0, slots=60.0)
SHORT_SET = MetricSums(loss=9.0, correct=1.0, masked=1.0, tokens=9.0, slots=12.0)


def test_figures_are_means_over_masked_tokens_not_over_sets():
    figures = validation_metrics({"long": LONG_SET, "short": SHORT_SET})
    assert figures == pytest.approx(
        {
            "loss/valid": 19 / 11,
            "acc/valid": 2 / 11,
            "loss/valid/long": 1.0,
            "acc/valid/long": 0.1,
            "loss/valid/short": 9.0,
            "acc/valid/short": 1.0,
        }
    )
    assert validation_metrics({"long": LONG_SET}) == {"loss/valid": 1.0, "acc/valid": 0.1}


def test_a_training_line_is_of_all_steps_since_the_last_one():
    state = TrainState()
    for sums in (LONG_SET, SHORT_SET):
        state.count(sums, 32, is_bad=False)
    state.count(MetricSums(loss=1e9, masked=5.0, tokens=7.0), 32, is_bad=True)
    assert state.since_log.mean_loss == pytest.approx(19 / 11)
    assert state.since_log.accuracy == pytest.approx(2 / 11)
    assert (state.sequences, state.tokens, state.bad_in_a_row) == (96, 66, 1)
    state.count(LONG_SET, 32, is_bad=False)
    assert state.bad_in_a_row == 0


def test_a_guess_without_context_is_told_of_all_sets_and_of_each(data_root, tmp_path):
    """The best that can be made of the token in the place and of how often each is masked."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    case = read_case(path, "main")
    parts = {name: DatasetSubset.open(data_root, name, 1.0) for name in ("ko", "en")}
    vocabulary = Vocabulary.of([*parts.values()])
    sets = {name: masked_valid(case, part, vocabulary) for name, part in parts.items()}
    figures = unigram_baseline(sets, vocabulary.size)

    counts = {}
    for name, one in sets.items():
        num_blocks = sum(map(len, parts[name].block_sequences()))
        blocks = [one.read(number, 0) for number in range(num_blocks)]
        counts[name] = Counter(token for rows in blocks for token in rows.tokens[rows.is_masked])
    ids = set(range(vocabulary.size)) - set(parts["ko"].shards.index.special_ids.values())
    assert figures.pop("sets") == {name: expected_guess(one, ids) for name, one in counts.items()}
    assert figures == expected_guess(counts["ko"] + counts["en"], ids)
    assert "sets" not in unigram_baseline({"ko": sets["ko"]}, vocabulary.size)


def expected_guess(counts, ids):
    """From the whole table of what stands in a place (the mask token first) and what stood there."""
    shares = np.array([counts[token] for token in sorted(ids)]) / counts.total()
    table = np.vstack([0.8 * shares, np.tile(0.1 * shares / shares.size, (shares.size, 1))])
    table[1:][np.diag_indices(shares.size)] += 0.1 * shares
    given = table / table.sum(axis=1, keepdims=True)
    logs = np.log(given, out=np.zeros_like(given), where=table > 0)
    return {
        "accuracy": pytest.approx(table.max(axis=1).sum()),
        "loss": pytest.approx(-(table * logs).sum()),
    }
