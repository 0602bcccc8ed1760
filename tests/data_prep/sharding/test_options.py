"""Options and tokenizers that cannot be used are rejected with an error message."""

import json
import re

import pytest

from data_prep.sharding.options import ShardOptions, parse_masking
from tests.helpers.hub_tokenizers import hub_tokenizer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_fraction": 1.0}, "--valid_fraction is 1.0"),
        ({"valid_fraction": -0.1}, "--valid_fraction is -0.1"),
        ({"seq_len": 3}, "--seq_len is 3"),
        ({"seq_len": 70_000}, "--seq_len is 70000"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        ShardOptions(**options)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ratio": 0.3}, "--mask_ratio 0.3: no effect without --masking static"),
        (
            {"copies": 2, "unit": "word", "seed": 1},
            "--copies 2, --mask_unit word, --mask_seed 1: no",
        ),
    ],
)
def test_masking_flags_without_static_masking_are_rejected(flags, message):
    default = {"copies": 1, "ratio": 0.15, "unit": "token", "seed": 0}
    assert parse_masking("none", **default) is None
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_masking("none", **(default | flags))


def test_a_tokenizer_without_the_special_tokens_is_rejected(make, text, tokenizer_path, tmp_path):
    content = json.loads(tokenizer_path.read_text())
    for token in content["added_tokens"]:
        token["content"] = token["content"].replace("[SEP]", "[END]")
    content["model"]["vocab"]["[END]"] = content["model"]["vocab"].pop("[SEP]")
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no \[CLS\] and \[SEP\] tokens: .* --nospecial_tokens"):
        make(text, options=ShardOptions(), tokenizer=tmp_path / "t.json")
    joined = ShardOptions(special_tokens=False, join="documents")
    with pytest.raises(ValueError, match=r"no \[SEP\] token to separate .* --join"):
        make(text, options=joined, tokenizer=tmp_path / "t.json")
    make(text, options=ShardOptions(special_tokens=False), tokenizer=tmp_path / "t.json")


def test_a_special_token_with_two_ids_is_rejected(make, text, tmp_path):
    """Models of other programs may have been trained with either."""
    content = json.loads(hub_tokenizer("xlm-roberta", ["ba co"]).content)
    content["model"]["vocab"][4][0] = "</s>"
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has '</s>' as tokens 2 and 4: give it one id"):
        make(text, options=ShardOptions(), tokenizer=tmp_path / "t.json")
