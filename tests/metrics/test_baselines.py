"""The baselines, and the masking ratio of the validation sets that they are computed on."""

import itertools
import json

import numpy as np
import pytest

from bertds.config.case import read_case
from bertds.data.dataset import DatasetSubset
from bertds.data.validation import masked_valid
from bertds.data.vocabulary import Vocabulary
from bertds.metrics.baselines import compute_baselines
from bertds.metrics.ngrams import NGrams
from tests.helpers.in_process_training import BASE


def masks_of(case, subset):
    sequences = masked_valid(case.bertds.masking, subset, Vocabulary.of([subset])).read(0, 0)
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


@pytest.fixture
def parts(data_root, tmp_path):
    """The validation sets, training sets of other text, and the vocabulary."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    case = read_case(path, "main")
    subsets = {name: DatasetSubset.open(data_root, name, 0.5) for name in ("ko", "en")}
    vocabulary = Vocabulary.of([*subsets.values()])
    valid = {
        name: masked_valid(case.bertds.masking, subset, vocabulary)
        for name, subset in subsets.items()
    }
    train = [DatasetSubset.open(data_root, "en", 1.0), DatasetSubset.open(data_root, "ko", 0.3, 2)]
    return valid, train, vocabulary


def test_baselines_equal_the_full_joint_distribution(parts):
    """Of the shown and the true token, for each context; over all sets and for each set."""
    valid, train, vocabulary = parts
    drawable = next(iter(valid.values())).masker.drawable
    ngrams = NGrams.count(train, vocabulary.size, drawable)
    found = compute_baselines(valid, train, vocabulary.size)
    positions = {name: positions_of(dataset, vocabulary) for name, dataset in valid.items()}
    positions["all"] = [each for name in valid for each in positions[name]]
    sets = found.pop("sets")
    for name, metrics in {**sets, "all": found}.items():
        neighbour = metrics.pop("neighbour")
        args = (positions[name], vocabulary.mask_id, drawable)
        check(metrics, expected(ngrams.unigram, "before", *args))
        sides = [expected(getattr(ngrams, side), side, *args) for side in ("before", "after")]
        check(neighbour, min(sides, key=lambda each: each["loss"]))
        assert neighbour["loss"] < metrics["loss"]
        assert metrics["accuracy_kept"] > 0.9 > metrics["accuracy_mask"]
    assert "sets" not in compute_baselines({"ko": valid["ko"]}, train, vocabulary.size)


def test_frequencies_are_those_of_the_training_text_only(parts, data_root):
    """The masks of validation cannot lower the loss: the other language is predicted badly."""
    valid, _, vocabulary = parts
    losses = {}
    for name in ("ko", "en"):
        train = [DatasetSubset.open(data_root, name, 1.0)]
        losses[name] = compute_baselines({"ko": valid["ko"]}, train, vocabulary.size)["loss"]
    assert losses["en"] > losses["ko"] + 1


def positions_of(dataset, vocabulary):
    """What is shown at each masked position and beside it, and the true token."""
    positions = []
    for number in range(dataset.subset.num_blocks):
        block = dataset.read(number, 0)
        stop = dataset.subset.num_sequences - dataset.subset.shards.first_sequence(number)
        for start, end in list(itertools.pairwise(block.ends.tolist()))[:stop]:
            shown = [vocabulary.size, *block.inputs[start:end].tolist(), vocabulary.size]
            for index in np.flatnonzero(block.is_masked[start:end]).tolist():
                beside = {"before": shown[index], "after": shown[index + 2]}
                positions.append((shown[index + 1], beside, int(block.tokens[start + index])))
    return positions


def expected(model, side, positions, mask_id, drawable):
    """Metrics from the joint probabilities of the shown token (rows, the mask first) and the true."""
    size = drawable.size
    losses, correct = [], {"mask": [], "random": [], "kept": []}
    for shown, beside, label in positions:
        q = model.probability(np.full(size, beside[side]), drawable)
        row = 0.8 * q if shown == mask_id else 0.1 * q / size
        if shown != mask_id:
            row[drawable == shown] += 0.1 * q[drawable == shown]
        row /= row.sum()
        of_label = row[drawable == label][0]
        losses.append(-np.log(of_label))
        kind = "mask" if shown == mask_id else "kept" if shown == label else "random"
        is_best = of_label > row.max() - 1e-12
        correct[kind].append((is_best and (row > row.max() - 1e-12).sum() == 1, is_best))
    every = [*itertools.chain(*correct.values())]
    return {
        "loss": np.mean(losses),
        "accuracy": np.mean(every, axis=0),
        **{f"accuracy_{kind}": np.mean(each, axis=0) for kind, each in correct.items()},
    }


def check(found, expected):
    """Accuracies lie between those without and with the positions where several tokens are best."""
    assert found.keys() == expected.keys()
    assert found["loss"] == pytest.approx(expected.pop("loss"))
    for name, (low, high) in expected.items():
        assert low - 1e-9 <= found[name] <= high + 1e-9
