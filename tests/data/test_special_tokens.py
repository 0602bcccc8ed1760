"""No text spells a special token, whatever the model and however the token is declared."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from bertds.data.tokenizer import Tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
EXTRA = "[EOT]"  # a name without a role
LETTERS = sorted({*"".join(SPECIALS), *EXTRA, *"ab"})
FIRST_ID = {name: number for number, name in enumerate([*SPECIALS, EXTRA])}


def merges_to(name: str) -> list[tuple[str, str]]:
    """Merges that spell a name: `[` `M`, `[M` `A`, …"""
    return [(name[:end], name[end]) for end in range(1, len(name))]


def bpe(**options) -> models.Model:
    merges = list(dict.fromkeys(pair for name in FIRST_ID for pair in merges_to(name)))
    tokens = dict.fromkeys([*FIRST_ID, "▁", *LETTERS, *map("".join, merges)])
    ids = {token: number for number, token in enumerate(tokens)}
    return models.BPE(ids, merges, unk_token="[UNK]", **options)


def word_piece() -> models.Model:
    tokens = [*FIRST_ID, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    ids = {token: number for number, token in enumerate(tokens)}
    return models.WordPiece(ids, unk_token="[UNK]")


def word_level() -> models.Model:
    tokens = [*FIRST_ID, *LETTERS, "ab"]
    return models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")


def unigram() -> models.Model:
    pieces = [*((name, 0.0) for name in FIRST_ID), *((x, -3.0) for x in ["▁", *LETTERS])]
    return models.Unigram(pieces, unk_id=1)


MODELS = {
    "bpe": (bpe, pre_tokenizers.Metaspace()),
    "bpe that looks words up": (lambda: bpe(ignore_merges=True), pre_tokenizers.WhitespaceSplit()),
    "word piece": (word_piece, pre_tokenizers.WhitespaceSplit()),
    "word level": (word_level, pre_tokenizers.WhitespaceSplit()),
    "unigram": (unigram, pre_tokenizers.Metaspace()),
    "unigram, upper case": (unigram, pre_tokenizers.Metaspace()),
}
DECLARATIONS = ("special", "not special", "in the vocabulary", "in special_tokens_map.json")


def make(directory: Path, model: str, declared: str) -> Tokenizer:
    make_model, pre_tokenizer = MODELS[model]
    backend = tokenizers.Tokenizer(make_model())
    backend.pre_tokenizer = pre_tokenizer
    if model == "unigram, upper case":
        backend.normalizer = normalizers.Replace("p", "P")  # the normalizer spells `[PAD]`
    if declared in ("special", "not special"):
        is_special = declared == "special"
        names = FIRST_ID if is_special else SPECIALS
        add = backend.add_special_tokens if is_special else backend.add_tokens
        add([tokenizers.AddedToken(name, special=is_special) for name in names])
    if declared == "in special_tokens_map.json":
        settings = {"mask_token": "[MASK]", "additional_special_tokens": [{"content": EXTRA}]}
        (directory / "special_tokens_map.json").write_text(json.dumps(settings))
    (directory / "tokenizer.json").write_text(backend.to_str())
    return Tokenizer.load(directory / "tokenizer.json")


@pytest.fixture(
    scope="module",
    params=[(model, declared) for model in MODELS for declared in DECLARATIONS],
    ids=lambda each: f"{each[0]}, {each[1]}",
)
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    return make(tmp_path_factory.mktemp("tokenizer"), *request.param)


texts = st.lists(
    st.sampled_from([*FIRST_ID, *LETTERS, " ", "[pAD]", "\0", "\0[MASK]"]), max_size=9
).map("".join)


@given(st.lists(texts, max_size=4))
def test_a_text_yields_no_special_token(tokenizer, batch):
    unknown = tokenizer.special_ids["unk"]
    for ids in tokenizer.encode_batch(batch):
        assert set(ids) & set(tokenizer.unmaskable_ids) <= {unknown}


@given(texts)
def test_only_the_mask_counts_in_a_marked_text(tokenizer, text):
    mask, unknown = (tokenizer.special_ids[role] for role in ("mask", "unk"))
    ids = tokenizer.encode_marked(text)
    assert set(ids) & set(tokenizer.unmaskable_ids) <= {mask, unknown}
    assert ids.count(mask) == text.count("[MASK]")


@given(st.lists(st.sampled_from("ab PS"), max_size=9).map("".join))
def test_other_texts_get_the_ids_of_the_library(tokenizer, text):
    backend = tokenizers.Tokenizer.from_buffer(tokenizer.content)
    ids = backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_batch([text]) == [ids]


def test_a_spelled_token_is_text_and_is_counted(tmp_path):
    tokenizer = make(tmp_path, "unigram", "special")
    (ids,) = tokenizer.encode_batch(["a [PAD]b"])
    assert tokenizer.tokens(ids) == ["▁", "a", "▁", "[", "P", "A", "D", "]", "b"]
    lines = ["a", "[EOT]", "a [PAD] [PAD]", "[ PAD ]", "[pad]"]
    assert tokenizer.count_spelled(lines) == 2


def test_a_normalizer_does_not_restore_the_name_of_a_token():
    """Some files normalize their special tokens, and exports remove control characters."""
    backend = tokenizers.Tokenizer(unigram())
    backend.normalizer = normalizers.Replace("\0", "")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = [tokenizers.AddedToken(name, normalized=True, special=True) for name in FIRST_ID]
    backend.add_special_tokens(names)
    tokenizer = Tokenizer.of(backend.to_str().encode(), "a test")
    tokens = tokenizer.tokens(tokenizer.encode_marked("a [PAD][MASK]b"))
    assert tokens == ["▁", "a", "▁", "[", "P", "A", "D", "]", "[MASK]", "▁", "b"]


def test_a_token_that_the_library_normalizes_keeps_its_spelling():
    """Then it is found in text, and the mask token has no second id."""
    backend = tokenizers.Tokenizer(word_piece())
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = [tokenizers.AddedToken(name, normalized=True, special=True) for name in SPECIALS]
    backend.add_special_tokens(names)
    tokenizer = Tokenizer.of(backend.to_str().encode(), "a test")
    assert tokenizer.tokens(list(range(5))) == SPECIALS
    assert tokenizer.count_spelled(["a [PAD]", "a [pad]"]) == 1
    for text in ("a [MASK] b", "a [mask] b", "a [PAD] b"):
        assert max(tokenizer.encode_marked(text)) < tokenizer.vocab_size
        assert not set(tokenizer.encode_batch([text])[0]) & {0, 2, 3, 4}


def test_what_the_library_still_returns_becomes_unknown(tmp_path, monkeypatch):
    tokenizer = make(tmp_path, "unigram", "special")
    monkeypatch.setitem(tokenizer.__dict__, "_text_backend", tokenizer._backend)
    tokenizer._backend.encode_special_tokens = True
    (ids,) = tokenizer.encode_batch(["a[MASK]"])
    assert tokenizer.tokens(ids) == ["▁", "a", "[UNK]"]


def test_a_token_that_only_the_settings_name_is_special_in_every_copy(tmp_path):
    tokenizer = make(tmp_path, "word level", "in special_tokens_map.json")
    assert tokenizer.unmaskable_ids == (0, 1, 2, 3, 4, 5)
    copy = Tokenizer.of(tokenizer.content, "a copy beside shards")
    assert copy.unmaskable_ids == tokenizer.unmaskable_ids
    (tmp_path / "special_tokens_map.json").write_text("[")
    with pytest.raises(ValueError, match=r"special_tokens_map.json is not JSON.*restore it"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_a_text_that_needs_a_missing_unknown_token_is_an_error(tmp_path):
    vocabulary = {"[PAD]": 0, "[MASK]": 1, "a": 2}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert tokenizer.encode_batch(["a"]) == [[2]]
    with pytest.raises(ValueError, match="cannot encode the text .*: add a token for unknown"):
        tokenizer.encode_batch(["[MASK]"])
