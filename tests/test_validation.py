import json

import numpy as np
import pytest

from bertds.case.file import read_case
from bertds.data.sets import Part, Vocabulary
from bertds.validation import masked_valid
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
