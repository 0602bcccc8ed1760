"""The view of a tokenizer.json: roles, word starts, special tokens in text, invalid files."""

import hashlib
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from bertds.data.tokenizer import MAX_BYTES, Tokenizer
from tests.helpers.hub_tokenizers import hub_backend, hub_tokenizer


def save(path, backend):
    path.write_text(backend.to_str())
    return Tokenizer.load(path)


def word_piece(path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sing", "##ing", "##s", "a"]
    ids = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(tokens[:5])
    return save(path, backend)


def byte_level(path, specials=("<s>", "<pad>", "</s>", "<unk>", "<mask>")):
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "ab"]
    ids = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(ids, [("Ġ", "a"), ("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in specials])
    return save(path, backend)


def metaspace(path, normalizer=None, **options):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁", "a", "b", "▁a", "▁ab"]
    ids = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(ids, [("▁", "a"), ("▁a", "b")], unk_token="[UNK]"))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(**{"prepend_scheme": "always", **options})
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken(name, special=True) for name in tokens[:5]])
    return save(path, backend)


def test_roles_of_the_common_families(tmp_path):
    expected = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert word_piece(tmp_path / "a").special_ids == expected
    assert metaspace(tmp_path / "b").special_ids == expected
    roberta = byte_level(tmp_path / "c")
    assert roberta.special_ids == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 4}
    assert roberta.unmaskable_ids == (0, 1, 2, 3, 4)


# Vocabularies of the Hub: the ids of CamemBERT begin with names of fairseq, and <unk> occurs twice.
HUB = {
    "roberta": ({"cls": 0, "pad": 1, "sep": 2, "unk": 3}, []),
    "xlm-roberta": ({"cls": 0, "pad": 1, "sep": 2, "unk": 3}, []),
    "camembert": ({"cls": 5, "pad": 1, "sep": 6, "unk": 3}, [0, 2, 4]),
}


@pytest.mark.parametrize("preset", HUB)
def test_tokenizers_of_the_roberta_family(preset):
    """The right ids in each role, the library's ids for a text, and no special token from a text."""
    lines, (roles, others) = ["ba~co  der", "ba co 😀 der"], HUB[preset]
    backend, tokenizer = hub_backend(preset, lines), hub_tokenizer(preset, lines)
    mask = tokenizer.vocab_size - 1
    assert tokenizer.special_ids == roles | {"mask": mask}
    assert list(tokenizer.unmaskable_ids) == sorted([*roles.values(), *others, mask])
    assert tokenizer.ambiguous_roles() == {}
    plain = backend.encode_batch(lines, add_special_tokens=False)
    assert tokenizer.encode_batch(lines) == [encoding.ids for encoding in plain]
    special = {*tokenizer.unmaskable_ids} - {roles["unk"]}
    spelled = ["<s> ba</s><pad> <mask> <unk>", "<s>NOTUSED co <mask>"]
    assert all(special.isdisjoint(ids) for ids in tokenizer.encode_batch(spelled))
    assert tokenizer.encode_marked("ba <mask>") == backend.encode("ba <mask>").ids
    ids = plain[0].ids
    begin = [token[0] in "▁Ġ" for token in tokenizer.tokens(ids)]
    assert tokenizer.word_starts()[ids].tolist() == begin


def test_a_special_token_with_two_ids_is_found():
    content = json.loads(hub_tokenizer("camembert", ["ba co"]).content)
    content["model"]["vocab"][0][0] = "<pad>"
    tokenizer = Tokenizer.of(json.dumps(content).encode(), "t.json")
    assert tokenizer.ambiguous_roles() == {"<pad>": [0, 1]}


def test_identity_and_size(tmp_path):
    tokenizer = metaspace(tmp_path / "t.json")
    assert tokenizer.fingerprint == hashlib.sha256((tmp_path / "t.json").read_bytes()).hexdigest()
    assert tokenizer.content == (tmp_path / "t.json").read_bytes()
    assert tokenizer.vocab_size == 10


def test_a_directory_with_a_tokenizer(tmp_path):
    file = metaspace(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path).fingerprint == file.fingerprint
    (tmp_path / "slow").mkdir()
    with pytest.raises(ValueError, match=r"slow has no tokenizer\.json: save it with transformers"):
        Tokenizer.load(tmp_path / "slow")
    (tmp_path / "slow/vocab.txt").write_text("a")
    with pytest.raises(ValueError, match=r"slow has no tokenizer\.json, only vocab\.txt: save it"):
        Tokenizer.load(tmp_path / "slow")


def test_added_special_tokens_count(tmp_path):
    backend = tokenizers.Tokenizer(models.BPE({"[UNK]": 0, "a": 1}, [], unk_token="[UNK]"))
    backend.add_special_tokens(["[PAD]", "[MASK]", "[EXTRA]"])
    tokenizer = save(tmp_path / "t.json", backend)
    assert tokenizer.vocab_size == 5
    assert tokenizer.unmaskable_ids == (0, 2, 3, 4)


@pytest.mark.parametrize(
    ("make", "starts"),
    [
        (metaspace, {"▁", "▁a", "▁ab"}),
        (word_piece, {"sing", "a"}),
        (byte_level, {"Ġ", "Ġa", *"ĉĊċČč"}),  # white space bytes
    ],
)
def test_word_starts(tmp_path, make, starts):
    tokenizer = make(tmp_path / "t.json")
    marked = tokenizer.word_starts()
    assert marked.shape == (tokenizer.vocab_size,)
    assert marked.dtype == np.bool_
    names = tokenizer.tokens(range(tokenizer.vocab_size))
    special = set(tokenizer.unmaskable_ids)
    assert {name for i, name in enumerate(names) if marked[i] and i not in special} == starts
    assert all(marked[number] for number in special)


def of_model(path, model, pre_tokenizer=None, decoder=None):
    """A tokenizer of a model whose vocabulary has [UNK] first."""
    backend = tokenizers.Tokenizer(model)
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["[PAD]", "[MASK]"])
    return save(path, backend)


def bpe(*tokens, **options):
    ids = {token: number for number, token in enumerate(["[UNK]", *tokens])}
    return models.BPE(ids, [], unk_token="[UNK]", **options)


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.mark.parametrize(
    ("model", "parts", "starts"),
    [
        (bpe("a", "##a", "▁", continuing_subword_prefix="##"), (), {"a", "▁"}),
        (bpe("a", "@@a", "@@", continuing_subword_prefix="@@"), (), {"a"}),
        (bpe("a", "##a"), (None, decoders.WordPiece("##")), {"a"}),
        (bpe("a", "▁a", *BYTES, byte_fallback=True), (), {"▁a"}),
        (bpe("a", "##a", *BYTES, continuing_subword_prefix="##", byte_fallback=True), (), {"a"}),
        (
            bpe("a", "Ġa", "Ċ", "ĊĠ"),
            (pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()]),),
            {"Ġa", "Ċ", "ĊĠ"},
        ),
        (
            models.Unigram([("[UNK]", 0.0), ("▁", -1.0), ("a", -1.0), ("▁a", -1.0)], unk_id=0),
            (pre_tokenizers.Metaspace(),),
            {"▁", "▁a"},
        ),
        (
            models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"),
            (pre_tokenizers.Whitespace(),),
            {"a", "b"},
        ),
    ],
)
def test_word_starts_of_every_convention(tmp_path, model, parts, starts):
    tokenizer = of_model(tmp_path / "t.json", model, *parts)
    marked = np.flatnonzero(tokenizer.word_starts()).tolist()
    assert set(tokenizer.tokens(marked)) == starts | {"[UNK]", "[PAD]", "[MASK]"}


@pytest.mark.parametrize(
    ("model", "parts", "message"),
    [
        (bpe("a"), (), "does not mark where a word begins"),
        (
            models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
            (pre_tokenizers.Split("", "isolated"),),
            "does not mark where a word begins",
        ),
        (bpe("a", "a</w>", end_of_word_suffix="</w>"), (), r"where a word ends \(</w>\)"),
        (
            bpe("a", "a</w>", end_of_word_suffix="</w>"),
            (pre_tokenizers.ByteLevel(),),
            r"where a word ends \(</w>\)",
        ),
    ],
)
def test_a_vocabulary_without_word_starts_is_an_error(tmp_path, model, parts, message):
    tokenizer = of_model(tmp_path / "t.json", model, *parts)
    with pytest.raises(ValueError, match=message):
        tokenizer.word_starts()


@pytest.mark.parametrize("make", [metaspace, word_piece, byte_level])
def test_text_never_yields_a_special_token(tmp_path, make):
    tokenizer = make(tmp_path / "t.json")
    names = tokenizer.tokens(tokenizer.unmaskable_ids)
    unknown = tokenizer.special_ids["unk"]
    for ids in tokenizer.encode_batch(names + [f"a {name} b" for name in names]):
        assert set(ids) & set(tokenizer.unmaskable_ids) <= {unknown}


def test_encode_marked_yields_special_tokens(tmp_path):
    tokenizer = byte_level(tmp_path / "t.json")
    assert tokenizer.special_ids["mask"] in tokenizer.encode_marked("ab<mask>ab")
    assert tokenizer.special_ids["mask"] not in tokenizer.encode_batch(["ab<mask>ab"])[0]


def test_decoding_inverts_encoding(tmp_path):
    tokenizer = metaspace(tmp_path / "t.json")
    (ids,) = tokenizer.encode_batch(["ab a bab"])
    assert tokenizer.decode(ids) == "ab a bab"
    assert tokenizer.tokens(ids)[0] == "▁ab"
    assert tokenizer.tokens([99]) == ["<99>"]


@pytest.mark.parametrize(
    ("options", "independent"),
    [
        ({}, True),
        ({"normalizer": normalizers.NFC()}, True),
        ({"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])}, True),
        ({"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])}, False),
        ({"normalizer": normalizers.NFKC()}, False),
        ({"prepend_scheme": "first"}, False),
        ({"split": False}, False),
    ],
)
def test_words_are_independent_with_metaspace_only(tmp_path, options, independent):
    tokenizer = metaspace(tmp_path / "t.json", **options)
    assert tokenizer.words_are_independent is independent
    if independent:
        words = ["ab", "b", "abab", "a"]
        joined = [number for ids in tokenizer.encode_batch(words) for number in ids]
        assert tokenizer.encode_batch([" ".join(words)]) == [joined]


def test_byte_level_words_are_not_independent(tmp_path):
    assert not byte_level(tmp_path / "a").words_are_independent
    assert not word_piece(tmp_path / "b").words_are_independent


def test_bpe_dropout_of_the_file_is_ignored(tmp_path):
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={"[PAD]": 0, "[MASK]": 1, "a": 2, "b": 3, "ab": 4}, merges=[("a", "b")])
    )
    backend.add_special_tokens(["[PAD]", "[MASK]"])
    backend.model.dropout = 0.5
    tokenizer = save(tmp_path / "tokenizer.json", backend)
    assert tokenizer.encode_batch(["ab"] * 100) == [[4]] * 100


def test_padding_and_truncation_of_the_file_are_ignored(tmp_path):
    backend = tokenizers.Tokenizer.from_buffer(metaspace(tmp_path / "a").content)
    backend.enable_padding(length=8)
    backend.enable_truncation(2)
    assert save(tmp_path / "b", backend).encode_batch(["a a a"]) == [[8, 8, 8]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "it has no model"),
        (b'{"a": 1}', "it has no model"),
        (b'{"model": {"type": "BPE"}}', "is not a Hugging Face tokenizer.json"),
        (b'{"version": "1.0", "model": null}', "is not a Hugging Face tokenizer.json"),
    ],
)
def test_other_files_are_rejected(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.load(path)
    assert "tokenizer.json" in str(caught.value)


def test_missing_and_huge_files_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Tokenizer.load(tmp_path / "gone.json")
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match="at most 268,435,456"):
        Tokenizer.load(huge)


@pytest.mark.parametrize(("missing", "role"), [("[MASK]", "mask"), ("[PAD]", "pad")])
def test_a_tokenizer_without_mask_or_pad_token_is_rejected(tmp_path, missing, role):
    content = json.loads(metaspace(tmp_path / "a").content)
    text = json.dumps(content).replace(missing, "[OTHER]")
    (tmp_path / "b").write_text(text)
    with pytest.raises(ValueError, match=f"has no {role} token"):
        Tokenizer.load(tmp_path / "b")
