"""The vocabulary that the datasets of a run share."""

import dataclasses
import shutil

import pytest

from bertds.data.dataset import DatasetSubset
from bertds.data.vocabulary import Vocabulary
from bertds.errors import ShardError


def subsets_of(root, *names) -> list[DatasetSubset]:
    return [DatasetSubset.open(root, name, 1.0) for name in names]


def test_it_is_the_vocabulary_of_the_shards(data_root, tokenizer):
    vocabulary = Vocabulary.of(subsets_of(data_root, "ko", "en"))
    assert vocabulary.size == tokenizer.vocab_size
    assert (vocabulary.pad_id, vocabulary.mask_id) == (0, 4)
    assert vocabulary.unmaskable_ids == tokenizer.unmaskable_ids == (0, 1, 2, 3, 4)


def test_the_tokenizer_beside_the_shards_must_be_the_original(data_root, tmp_path):
    """The run copies it and uses it for whole words, `fill` and `export`."""
    shutil.copytree(data_root / "ko", tmp_path / "ko")
    path = tmp_path / "ko" / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ShardError, match="is not the tokenizer that the shards were made with"):
        Vocabulary.of(subsets_of(tmp_path, "ko"))
    path.unlink()
    with pytest.raises(ShardError, match=r"tokenizer.json is missing"):
        Vocabulary.of(subsets_of(tmp_path, "ko"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "0" * 64}, "en was made with another tokenizer than .*ko"),
        ({"special_tokens": True}, r"only one of .*en and .*ko has \[CLS\] and \[SEP\]"),
    ],
)
def test_datasets_of_different_vocabularies_are_rejected(data_root, changes, message):
    subsets = subsets_of(data_root, "ko", "en")
    shards = subsets[1].shards
    shards.index = dataclasses.replace(shards.index, **changes)
    with pytest.raises(ValueError, match=message):
        Vocabulary.of(subsets)
