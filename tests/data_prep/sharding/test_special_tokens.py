"""Text that spells special tokens: `shard` encodes it as text, `verify` finds older ids of it."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from bertds.data.tokenizer import Tokenizer
from data_prep.sharding.options import ShardOptions
from data_prep.verify import verify_shard_set
from tests.data_prep.sharding.shard_contents import read_sequences

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LINES = ["the word [MASK] is", "a [PAD] [SEP]", "the word is a word", "is a word"]


@pytest.fixture(scope="module")
def words_path(tmp_path_factory):
    """A WordLevel tokenizer, whose model knows the special tokens as words."""
    names = [*SPECIALS, "the", "word", "is", "a"]
    model = models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIALS)
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    path.write_text(backend.to_str())
    return path


@pytest.fixture
def make_spoiled(make, words_path, monkeypatch):
    """Shards of a version that left it to the library to return no special token."""

    def encode_batch(tokenizer, texts):
        tokenizer._backend.encode_special_tokens = True
        return [tokenizer._backend.encode(text, add_special_tokens=False).ids for text in texts]

    def make_shards(**options):
        monkeypatch.setattr(Tokenizer, "encode_batch", encode_batch)
        options = ShardOptions(valid_fraction=0, **options)
        return make(LINES, tokenizer=words_path, options=options)

    return make_shards


@pytest.mark.parametrize("join", ["none", "documents"])
@pytest.mark.parametrize("special_tokens", [True, False])
def test_no_sequence_has_a_special_token_inside(make, words_path, join, special_tokens):
    options = ShardOptions(valid_fraction=0, join=join, special_tokens=special_tokens, dedup=False)
    out = make(LINES * 50, tokenizer=words_path, options=options)
    sequences = read_sequences(out / "train")
    cls_id, sep_id, mask_id, pad_id = 2, 3, 4, 0
    for ids in sequences:
        assert ids.count(cls_id) == special_tokens
        assert not {mask_id, pad_id} & set(ids)
    assert (len(sequences) < 200) == (join == "documents")
    num_separators = 200 if special_tokens else 200 - len(sequences)
    assert sum(ids.count(sep_id) for ids in sequences) == num_separators
    assert verify_shard_set(out / "train") == []
    counts = json.loads((out / "made.json").read_text())["counts"]
    assert counts["lines that spell a special token, encoded as text"] == 100


def test_verify_names_a_sequence_with_a_special_token(make_spoiled):
    (fault,) = verify_shard_set(make_spoiled() / "train")
    assert "shard-000000.tar: special tokens inside sequences, in 2 of 4; the first is" in fault
    assert any(line in fault for line in LINES[:2])
    assert fault.endswith("delete the set and shard the text again")


def test_verify_tells_a_separator_from_one_in_the_text(make_spoiled, monkeypatch):
    """The manifest tells whether documents were joined; without it, [SEP] may be a separator."""
    monkeypatch.setattr(f"{__name__}.LINES", ["the word [SEP] is"])
    out = make_spoiled(special_tokens=False)
    (fault,) = verify_shard_set(out / "train")
    assert "the word [SEP] is" in fault
    (out / "made.json").unlink()
    assert verify_shard_set(out / "train") == []


@pytest.mark.parametrize("special_tokens", [True, False])
def test_verify_finds_special_tokens_at_both_ends(make_spoiled, monkeypatch, special_tokens):
    monkeypatch.setattr(f"{__name__}.LINES", ["[CLS] the word", "a word [MASK]"])
    (fault,) = verify_shard_set(make_spoiled(special_tokens=special_tokens) / "train")
    assert "in 2 of 2" in fault
