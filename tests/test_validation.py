import json
from collections import Counter

import numpy as np
import pytest

from bertds.case.file import read_case
from bertds.data.sets import Part, Vocabulary
from bertds.validation import guess_figures, masked_valid
from tests.training import BASE


def masked_by(case, part):
    rows = masked_valid(case, part, Vocabulary.of([part])).read(0, 0)
    return rows.is_masked, rows.lengths


@pytest.mark.parametrize("ratio", [0.15, 0.4])
def test_validation_has_a_ratio_of_its_own(data_root, tmp_path, ratio):
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    part = Part.open(data_root, "ko", 1.0)
    own, _ = masked_by(read_case(path, "main", f"masking.ratio={ratio}"), part)
    fixed, lengths = masked_by(
        read_case(path, "main", f"masking.ratio={ratio},masking.valid_ratio=0.15"), part
    )
    usual, _ = masked_by(read_case(path, "main"), part)
    assert np.array_equal(fixed, usual)
    assert np.array_equal(own, usual) == (ratio == 0.15)
    most = np.maximum(1, np.floor(0.15 * lengths + 0.5)).sum()  # if all tokens can be masked
    assert 0 < fixed.sum() <= most


def test_a_guess_without_context_is_told_of_all_sets_and_of_each(data_root, tmp_path):
    """The most frequent masked token, and the entropy of the masked tokens."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    case = read_case(path, "main")
    parts = {name: Part.open(data_root, name, 1.0) for name in ("ko", "en")}
    vocabulary = Vocabulary.of([*parts.values()])
    sets = {name: masked_valid(case, part, vocabulary) for name, part in parts.items()}
    figures = guess_figures(sets, vocabulary.size)

    counts = {}
    for name, one in sets.items():
        num_blocks = sum(map(len, parts[name].block_sequences()))
        blocks = [one.read(number, 0) for number in range(num_blocks)]
        counts[name] = Counter(token for rows in blocks for token in rows.tokens[rows.is_masked])
    assert figures.pop("sets") == {name: expected_guess(one) for name, one in counts.items()}
    assert figures == expected_guess(counts["ko"] + counts["en"])
    assert "sets" not in guess_figures({"ko": sets["ko"]}, vocabulary.size)


def expected_guess(counts):
    shares = np.array(list(counts.values())) / counts.total()
    return {
        "accuracy": pytest.approx(shares.max()),
        "entropy": pytest.approx(-(shares * np.log(shares)).sum()),
    }
