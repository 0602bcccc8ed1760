"""Metrics are ratios of sums over all masked tokens."""

import pytest

from bertds.metrics.accumulators import MetricSums, validation_metrics
from bertds.training.state import TrainState

LONG = MetricSums(loss=10.0, correct=1.0, masked=10.0, tokens=50.0, slots=60.0)
SHORT = MetricSums(loss=9.0, correct=1.0, masked=1.0, tokens=9.0, slots=12.0)


def test_validation_metrics_are_means_over_masked_tokens_not_over_sets():
    assert validation_metrics({"long": LONG, "short": SHORT}) == pytest.approx(
        {
            "loss/valid": 19 / 11,
            "acc/valid": 2 / 11,
            "loss/valid/long": 1.0,
            "acc/valid/long": 0.1,
            "loss/valid/short": 9.0,
            "acc/valid/short": 1.0,
        }
    )
    assert validation_metrics({"long": LONG}) == {"loss/valid": 1.0, "acc/valid": 0.1}


def test_training_metrics_cover_all_applied_steps_since_the_last_line():
    state = TrainState()
    for sums in (LONG, SHORT):
        state.count(sums, 32, is_bad=False)
    state.count(MetricSums(loss=1e9, masked=5.0, tokens=7.0), 32, is_bad=True)
    assert state.since_log.mean_loss == pytest.approx(19 / 11)
    assert state.since_log.accuracy == pytest.approx(2 / 11)
    assert (state.sequences, state.tokens, state.bad_in_a_row) == (96, 66, 1)
    state.count(LONG, 32, is_bad=False)
    assert state.bad_in_a_row == 0
