"""Metrics are ratios of sums over all masked tokens."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from bertds.data.packing import MaskedSequences, pack
from bertds.metrics.accumulators import (
    AsyncSums,
    MetricSums,
    ValidationSums,
    evaluate_packs,
    validation_metrics,
)
from bertds.training.state import TrainState

LONG = MetricSums(loss=10.0, correct=1.0, masked=10.0, tokens=50.0, slots=60.0)
SHORT = MetricSums(loss=9.0, correct=1.0, masked=1.0, tokens=9.0, slots=12.0)
BY_KIND = {"masked_mask": 8.0, "masked_kept": 2.0, "correct_mask": 2.0, "correct_kept": 1.0}
MASK_ID = 4


def test_validation_metrics_are_means_over_masked_tokens_not_over_sets():
    long = ValidationSums(**asdict(LONG) | BY_KIND | {"maskable": 40.0})
    short = ValidationSums(**asdict(SHORT) | {"masked_mask": 1.0, "maskable": 9.0})
    bits_long, bits_short = 40 / math.log(2), 9 * 9 / math.log(2)
    assert validation_metrics(
        {"long": long, "short": short}, {"long": 2.0, "short": 3.0}
    ) == pytest.approx(
        {
            "loss/valid": 19 / 11,
            "acc/valid": 2 / 11,
            "acc_mask/valid": 2 / 9,
            "acc_kept/valid": 1 / 2,
            "bits_per_character/valid": (bits_long + bits_short) / (50 * 2 + 9 * 3),
            "loss/valid/long": 1.0,
            "acc/valid/long": 0.1,
            "bits_per_character/valid/long": bits_long / (50 * 2),
            "loss/valid/short": 9.0,
            "acc/valid/short": 1.0,
            "bits_per_character/valid/short": bits_short / (9 * 3),
        }
    )


def test_bits_per_character_need_the_text():
    assert "bits_per_character/valid" not in validation_metrics(
        {"long": ValidationSums(**asdict(LONG) | BY_KIND)}, {"long": 0.0}
    )


def test_places_are_counted_by_what_they_show():
    tokens = np.array([10, 11, 12, 13, 14, 15])
    inputs = np.array(
        [MASK_ID, 11, 20, MASK_ID, 14, 15]
    )  # [MASK], kept, random, [MASK], two unmasked
    sequences = MaskedSequences.masked_at(
        np.arange(4), tokens=tokens, inputs=inputs, lengths=np.array([3, 3])
    )
    is_correct = torch.tensor([True, True, False, False])
    packs = [pack(sequences, row_length=8, pad_id=0)] * 2
    values = evaluate_packs(
        lambda _: (torch.tensor(3.0), is_correct), packs, torch.device("cpu"), MASK_ID
    )
    sums = AsyncSums(values).validation_sums()
    assert (sums.loss, sums.masked, sums.correct, sums.tokens) == (6, 8, 4, 12)
    assert sums.accuracy_by_kind() == {"mask": 1 / 2, "random": 0, "kept": 1}
    assert (sums.masked_mask, sums.masked_random, sums.masked_kept) == (4, 2, 2)


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
