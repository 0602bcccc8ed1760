"""The unigram baseline, and the masking ratio of the validation sets that it is computed on."""

import json
from collections import Counter

import numpy as np
import pytest

from bertds.config.case import read_case
from bertds.data.dataset import DatasetSubset
from bertds.data.validation import masked_valid
from bertds.data.vocabulary import Vocabulary
from bertds.metrics.unigram_baseline import unigram_baseline
from tests.helpers.in_process_training import BASE


def masks_of(case, subset):
    sequences = masked_valid(case, subset, Vocabulary.of([subset])).read(0, 0)
    return sequences.is_masked, sequences.lengths


@pytest.mark.parametrize("ratio", [0.15, 0.4])
def test_valid_ratio_is_independent_of_the_training_ratio(data_root, tmp_path, ratio):
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    subset = DatasetSubset.open(data_root, "ko", 1.0)
    same_ratio, _ = masks_of(read_case(path, "main", f"masking.ratio={ratio}"), subset)
    fixed_ratio, lengths = masks_of(
        read_case(path, "main", f"masking.ratio={ratio},masking.valid_ratio=0.15"), subset
    )
    default, _ = masks_of(read_case(path, "main"), subset)
    assert np.array_equal(fixed_ratio, default)
    assert np.array_equal(same_ratio, default) == (ratio == 0.15)
    upper_bound = np.maximum(1, np.floor(0.15 * lengths + 0.5)).sum()  # if all can be masked
    assert 0 < fixed_ratio.sum() <= upper_bound


def test_baseline_equals_the_full_joint_distribution(data_root, tmp_path):
    """Over all sets and for each set."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    case = read_case(path, "main")
    subsets = {name: DatasetSubset.open(data_root, name, 1.0) for name in ("ko", "en")}
    vocabulary = Vocabulary.of([*subsets.values()])
    sets = {name: masked_valid(case, subset, vocabulary) for name, subset in subsets.items()}
    baseline = unigram_baseline(sets, vocabulary.size)

    counts = {}
    for name, dataset in sets.items():
        num_blocks = sum(map(len, subsets[name].block_sequences()))
        blocks = [dataset.read(number, 0) for number in range(num_blocks)]
        counts[name] = Counter(token for block in blocks for token in block.tokens[block.is_masked])
    ids = set(range(vocabulary.size)) - set(subsets["ko"].shards.index.special_ids.values())
    assert baseline.pop("sets") == {
        name: expected_baseline(count, ids) for name, count in counts.items()
    }
    assert baseline == expected_baseline(counts["ko"] + counts["en"], ids)
    assert "sets" not in unigram_baseline({"ko": sets["ko"]}, vocabulary.size)


def expected_baseline(counts, ids):
    """From the joint probabilities of input id (rows, the mask token first) and true id (columns)."""
    frequencies = np.array([counts[token] for token in sorted(ids)]) / counts.total()
    size = frequencies.size
    joint = np.vstack([0.8 * frequencies, np.tile(0.1 * frequencies / size, (size, 1))])
    joint[1:][np.diag_indices(size)] += 0.1 * frequencies
    conditional = joint / joint.sum(axis=1, keepdims=True)
    logs = np.log(conditional, out=np.zeros_like(conditional), where=joint > 0)
    return {
        "accuracy": pytest.approx(joint.max(axis=1).sum()),
        "loss": pytest.approx(-(joint * logs).sum()),
    }
