"""New tokens apply only where they join old ones, and old ids stay, for every kind of model."""

import itertools
import json
import random
import re
from collections import Counter

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bertds.cli import run
from bertds.data.new_tokens import pieces_of_new_tokens
from bertds.data.tokenizer import Tokenizer
from data_prep.__main__ import COMMANDS
from tests.conftest import SPECIAL, SYLLABLES

ADDED = 40
UNSEEN = "Ω"


def word_piece(lines):
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator(lines, trainer)
    return json.loads(backend.to_str())


def bpe(lines, specials=SPECIAL, **options):
    backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]", **options))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.WordPiece() if options else decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=[*specials], show_progress=False, **options
    )
    backend.train_from_iterator(lines, trainer)
    return json.loads(backend.to_str())


def bpe_of_word_ends(lines):
    """As that of XLM and HerBERT: the last piece of a word ends with `</w>`."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(lines, trainer)
    return json.loads(backend.to_str())


def byte_level(lines):
    """As RoBERTa's, with the special tokens behind the vocabulary, and merges as text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(lines, trainer)
    backend.add_special_tokens(SPECIAL)
    content = json.loads(backend.to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    return content


def byte_fallback(lines):
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    content = bpe(lines, [*SPECIAL, *names])
    content["model"]["byte_fallback"] = True
    content["added_tokens"] = content["added_tokens"][: len(SPECIAL)]
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [{"type": "ByteFallback"}, content["decoder"]],
    }
    return content


def unigram(lines):
    """As DeBERTa's: the mask is behind the vocabulary, and is no piece of it."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL[:4], unk_token="[UNK]", show_progress=False
    )
    backend.train_from_iterator(lines, trainer)
    backend.add_special_tokens([SPECIAL[4]])
    return json.loads(backend.to_str())


def word_piece_with_added_tokens(lines):
    """New ids come behind those of tokens that a user added."""
    backend = tokenizers.Tokenizer.from_str(json.dumps(word_piece(lines)))
    backend.add_tokens(["zzz"])
    backend.add_special_tokens(["<e>"])
    return json.loads(backend.to_str())


MAKERS = {
    "WordPiece": word_piece,
    "WordPiece, added tokens": word_piece_with_added_tokens,
    "BPE": bpe,
    "BPE, continuing prefix": lambda lines: bpe(lines, continuing_subword_prefix="##"),
    "BPE, ends of words": bpe_of_word_ends,
    "byte-level BPE": byte_level,
    "BPE, byte fallback": byte_fallback,
    "Unigram": unigram,
}


def domain_lines():
    """Text of words that the tokenizers were not trained on."""
    generator = random.Random(0)
    syllables = SYLLABLES["en"] + SYLLABLES["ko"]
    words = ["".join(generator.choices(syllables, k=2 + i % 4)) for i in range(60)]
    return [" ".join(generator.choices(words, k=8)) + f" {UNSEEN}{i}" for i in range(150)]


@pytest.fixture(scope="module", params=MAKERS)
def extension(request, lines, tmp_path_factory):
    """The old and the new tokenizer."""
    directory = tmp_path_factory.mktemp("extension")
    content = MAKERS[request.param]([*lines["en"], *lines["ko"]])
    (directory / "old.json").write_text(json.dumps(content))
    (directory / "text.txt").write_text("\n".join(domain_lines()))
    flags = [f"--extend={directory}/old.json", f"--add={ADDED}", f"--input={directory}/text.txt"]
    assert run("data_prep", COMMANDS, ["tokenizer", *flags, f"--out={directory}/new.json"]) == 0
    return Tokenizer.load(directory / "old.json"), Tokenizer.load(directory / "new.json")


texts = st.lists(
    st.sampled_from(
        [*SYLLABLES["en"], *SYLLABLES["ko"], "a", "n", "1", " ", " ", "  ", UNSEEN, ".", *SPECIAL]
        + ["zzz", *" ".join(domain_lines()[:9]).split()]
    ),
    max_size=12,
).map("".join)


def test_old_ids_stay_and_new_ones_follow(extension):
    old, new = extension
    ids = [*range(old.vocab_size)]
    assert new.tokens(ids) == old.tokens(ids)
    assert new.special_ids == old.special_ids
    assert new.unmaskable_ids == old.unmaskable_ids
    assert old.vocab_size < new.vocab_size <= old.vocab_size + ADDED
    assert not any(
        map(re.compile(r"<\d+>").fullmatch, new.tokens([*range(new.vocab_size)]))
    )  # gaps


@given(texts.filter(lambda text: not any(name in text for name in [*SPECIAL, "zzz"])))
def test_a_text_has_the_ids_of_its_words(extension, text):
    for each in extension:
        ids = [number for word in each.words(text) for number in each.pieces(word)]
        assert [ids] == each.encode_batch([text])


@given(texts)
def test_a_text_without_new_tokens_keeps_its_ids(extension, text):
    old, new = extension
    (before,), (after,) = old.encode_batch([text]), new.encode_batch([text])
    assert before == after or max(after) >= old.vocab_size
    assert new.decode(after) == old.decode(before)
    unknown = old.special_ids.get("unk", -1)
    assert after.count(unknown) == before.count(unknown)
    assert new.encode_marked(f"{text}[MASK]").count(new.special_ids["mask"]) >= 1


@given(texts)
def test_new_tokens_join_old_ones(extension, text):
    old, new = extension
    (before,), (after,) = old.encode_batch([text]), new.encode_batch([text])
    if old.model_type == "WordPiece":  # the longest token may end inside an old one
        return
    pieces = [[number] for number in range(old.vocab_size)] + pieces_of_new_tokens(old, new)
    assert [*itertools.chain.from_iterable(pieces[number] for number in after)] == before


def test_every_new_token_is_used(extension):
    old, new = extension
    encoded = new.encode_batch(domain_lines())
    used = Counter(itertools.chain.from_iterable(encoded))
    added = [*range(old.vocab_size, new.vocab_size)]
    if old.model_type == "BPE":  # a merge may only serve a longer one
        assert sum(number in used for number in added) > len(added) / 2
    else:
        assert all(used[number] for number in added)
        assert [new.pieces(spelling) for spelling in new.tokens(added)] == [[n] for n in added]


def fewest(pieces, joined):
    """The least number of tokens for some old pieces, of which some runs are tokens too."""
    least = [0]
    for end in range(1, len(pieces) + 1):
        starts = (start for start in range(end - 1) if tuple(pieces[start:end]) in joined)
        least.append(1 + min(least[start] for start in [end - 1, *starts]))
    return least[-1]


def test_unigram_joins_as_many_pieces_as_it_can(tmp_path):
    """Scores whose sums are rounded, and tokens that overlap: `▁ab`, `bc`, `▁abc`, …"""
    letters = [("▁", -0.1), ("a", -0.3), ("b", -0.7), ("c", -1.1), ("d", -1.7)]
    vocab = [*((name, -9.0) for name in SPECIAL), *letters]
    content = {
        "model": {"type": "Unigram", "unk_id": 1, "vocab": vocab},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    }
    words = ["".join(word) for n in (2, 3, 4) for word in itertools.product("abcd", repeat=n)]
    text = " ".join(word for i, word in enumerate(words) for _ in range(i % 5))
    assert extend(tmp_path, content, text, "--add=60") == 0
    old, new = (Tokenizer.load(tmp_path / name) for name in ("old.json", "new.json"))
    joined = {*map(tuple, pieces_of_new_tokens(old, new))}
    assert len(joined) == 60
    for word in words:
        assert len(new.pieces(f"▁{word}")) == fewest(old.pieces(f"▁{word}"), joined)


def extend(directory, content, text, *flags):
    """The exit code of the command on a tokenizer and a text; writes new.json."""
    (directory / "old.json").write_text(json.dumps(content))
    (directory / "text.txt").write_text(text)
    given = [f"--extend={directory}/old.json", f"--input={directory}/text.txt", *flags]
    return run("data_prep", COMMANDS, ["tokenizer", *given, f"--out={directory}/new.json"])


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_the_printed_figures_are_those_of_the_text(kind, lines, tmp_path, capsys):
    text, content = domain_lines(), MAKERS[kind]([*lines["en"], *lines["ko"]])
    assert extend(tmp_path, content, "\n".join(text), "--add=30") == 0
    old, new = (Tokenizer.load(tmp_path / name) for name in ("old.json", "new.json"))
    before, after = (sum(map(len, each.encode_batch(text))) for each in (old, new))
    num_words = sum(len(old.words(line)) for line in text)
    changed = sum(old.pieces(word) != new.pieces(word) for line in text for word in old.words(line))
    out = capsys.readouterr().out
    assert f"{before / num_words:.3f} before, {after / num_words:.3f} after" in out
    assert f"{1 - after / before:.1%} fewer tokens" in out
    assert f"words changed    {changed / num_words:.1%} of {num_words:,}" in out
    assert 0 < after < before
    written = (tmp_path / "new.json").read_bytes()
    assert extend(tmp_path, content, "\n".join(text), "--add=30") == 0
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "new.json").read_bytes() == written


def letters_of_word_piece(tokens):
    """The content of a WordPiece tokenizer."""
    vocab = {token: number for number, token in enumerate([*SPECIAL, *tokens])}
    options = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    return {
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocab, **options},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
    }


ABC = ["a", "b", "c", "##a", "##b", "##c"]


def test_the_words_that_save_most_pieces_come_first(tmp_path):
    """`abab` saves 3 pieces, and `ccb` 2; `cca` would save one more after `cc`."""
    words = ["[CLS]", "[CLS]"] + ["abab"] * 10 + ["ccb"] * 9 + ["cca"] * 9 + ["once"]
    assert extend(tmp_path, letters_of_word_piece(ABC), "\n".join(words), "--add=2") == 0
    new = Tokenizer.load(tmp_path / "new.json")
    assert new.tokens([11, 12]) == ["abab", "cc"]


def test_a_common_ending_becomes_a_token(tmp_path):
    """As in Korean, where many stems have the same endings."""
    stems = map("".join, itertools.product("ab", repeat=4))
    text = " ".join(f"{stem}cde" for stem in stems for _ in range(2))
    content = letters_of_word_piece(["a", "b", "##a", "##b", "##c", "##d", "##e"])
    assert extend(tmp_path, content, text, "--add=2") == 0
    new = Tokenizer.load(tmp_path / "new.json")
    assert "##cde" in new.tokens([12, 13])
    assert new.vocab_size == 14


def test_no_word_becomes_unknown_for_want_of_a_letter(tmp_path, capsys):
    """`ab` would leave `c`, which the vocabulary has in `##bc` only."""
    content = letters_of_word_piece(["a", "##b", "##bc"])
    assert extend(tmp_path, content, "ab ab", "--add=1") == 2
    assert "set --add to more than 1" in capsys.readouterr().err
    assert extend(tmp_path, content, "ab ab", "--add=9") == 0
    new = Tokenizer.load(tmp_path / "new.json")
    assert new.tokens(new.encode_batch(["ab abc"])[0]) == ["ab", "ab", "##c"]


WORD_LEVEL = {
    "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[MASK]": 1}, "unk_token": "[PAD]"},
    "pre_tokenizer": {"type": "WhitespaceSplit"},
}


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        ({}, ["--add=0"], "--add is 0, expected at least 1"),
        ({}, ["--add=3", "--merges=9", "--lowercase"], "leave out --merges and --lowercase"),
        ({}, [], "--extend TOKENIZER and --add N need each other"),
        ({"pre_tokenizer": None}, ["--add=3"], "does not split a text into words"),
        (WORD_LEVEL, ["--add=3"], "model is WordLevel, expected one of WordPiece, BPE, Unigram"),
    ],
)
def test_what_cannot_be_extended_is_rejected(change, flags, words, lines, tmp_path, capsys):
    content = bpe(lines["en"][:9]) | change
    assert extend(tmp_path, content, "\n".join(domain_lines()[:9]), *flags) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()


def test_fewer_tokens_than_asked_for_are_told(tmp_path, capsys):
    content = letters_of_word_piece(ABC)
    assert extend(tmp_path, content, "ab ab ab cc cc abc", "--add=9") == 0
    assert "2 new tokens of 9: the text has no more, ids 11 to 12" in capsys.readouterr().out


def test_a_text_without_split_words_adds_nothing(lines, tmp_path, capsys):
    assert extend(tmp_path, bpe(lines["en"]), "ba", "--add=3") == 2
    assert "no word of the text that the tokenizer splits" in capsys.readouterr().err


def test_the_pieces_of_added_tokens_are_those_of_their_text(lines):
    """transformers extends a tokenizer with added tokens, beside the model."""
    content = json.dumps(byte_level(lines["ko"]))
    backend = tokenizers.Tokenizer.from_str(content)
    backend.add_tokens(["빛소 나"])
    old, new = (Tokenizer.of(each.encode(), "here") for each in (content, backend.to_str()))
    assert pieces_of_new_tokens(old, new) == old.encode_batch(["빛소 나"])
    with pytest.raises(ValueError, match=r"as token 0, but the model's has"):
        pieces_of_new_tokens(Tokenizer.of(json.dumps(bpe(lines["en"])).encode(), "other"), new)
