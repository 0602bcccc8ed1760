"""The vocabulary has the requested size and only pairs of the text, and its bytes are fixed."""

import json
import re
import unicodedata
from collections import Counter

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.tokenizer import Tokenizer
from data_prep import train_tokenizer
from data_prep.readers.sources import open_sources
from data_prep.tokenizer_file import ByteOptions
from data_prep.train_tokenizer import SPECIALS, make_tokenizer


def make(
    directory, text, merges, *, lowercase=True, min_count=5, name="tokenizer.json", **byte_options
):
    """The parsed tokenizer.json of a text."""
    (directory / "text.txt").write_text(text)
    path = directory / name
    options = ByteOptions(**byte_options)
    make_tokenizer(str(directory / "text.txt"), merges, path, lowercase, min_count, options)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def text(lines):
    return "\n".join([*lines["ko"], *(line.title() for line in lines["en"])] * 2)


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("merges", [1, 100, 400])
def test_the_vocabulary_is_special_tokens_characters_and_merges(tmp_path, text, lowercase, merges):
    content = make(tmp_path, text, merges, lowercase=lowercase)
    vocabulary = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    seen = Counter(text.lower() if lowercase else text)
    del seen["\n"], seen[" "]
    characters = sorted(key for key, count in (seen | {"▁": 99}).items() if count >= 5)
    assert tuple(vocabulary[:5]) == SPECIALS
    assert vocabulary[5 : 5 + len(characters)] == characters
    assert len(vocabulary) == 5 + len(characters) + merges
    merged = ["".join(pair) for pair in content["model"]["merges"]]
    assert list(dict.fromkeys(merged)) == vocabulary[5 + len(characters) :]


def test_the_file_is_a_hugging_face_tokenizer(tmp_path, text):
    make(tmp_path, text, 200)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert tokenizer.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.unmaskable_ids == (0, 1, 2, 3, 4)
    assert tokenizer.words_are_independent
    line = text.split("\n")[0]
    (ids,) = tokenizer.encode_batch([line])
    assert tokenizer.decode(ids) == line.lower()
    assert tokenizer.word_starts()[ids].sum() == len(line.split())
    masked = tokenizer.tokens(tokenizer.encode_marked("12 [MASK] 13"))
    assert masked.count("[MASK]") == 1
    assert "▁" not in masked  # [MASK] takes the space before it


def test_rare_characters_are_unknown(tmp_path):
    content = make(tmp_path, "abab baba Ω\n" * 4 + "abab ΩZ\n", 1, min_count=5)
    assert set(content["model"]["vocab"]) == {*SPECIALS, "▁", "a", "b", "ω", "ab"}
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    (ids,) = tokenizer.encode_batch(["abzω"])
    assert tokenizer.tokens(ids) == ["▁", "ab", "[UNK]", "ω"]


BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]
BYTE_LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_byte_fallback_adds_the_bytes_before_the_characters(tmp_path):
    content = make(tmp_path, "abab baba Ω\n" * 4 + "Ω", 1, byte_fallback=True)
    vocabulary = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    assert vocabulary == [*SPECIALS, *BYTE_NAMES, "a", "b", "ω", "▁", "ab"]
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    (ids,) = tokenizer.encode_batch(["ab é😀ω"])
    names = ["▁", "ab", "▁", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "ω"]
    assert tokenizer.tokens(ids) == names
    assert tokenizer.word_starts()[ids].tolist() == [name == "▁" for name in names]


def test_the_name_of_a_byte_in_the_text_is_not_the_byte(tmp_path):
    content = make(
        tmp_path, "x<0x41>y <0x41> abcdefghij\n" * 9, 8, lowercase=False, byte_fallback=True
    )
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    (ids,) = tokenizer.encode_batch(["x<0x41>y"])
    assert content["model"]["vocab"]["<0x41>"] not in ids
    assert tokenizer.decode(ids) == "x<0x41>y"


def test_a_byte_level_vocabulary_is_bytes_and_merges(tmp_path, text):
    large = make(tmp_path, text, 300, byte_level=True)
    vocabulary = sorted(large["model"]["vocab"], key=large["model"]["vocab"].get)
    assert vocabulary[: 5 + 256] == [*SPECIALS, *BYTE_LETTERS]
    assert len(vocabulary) == 5 + 256 + 300
    small = make(tmp_path, text, 100, byte_level=True, name="small.json")
    assert small["model"]["merges"] == large["model"]["merges"][: len(small["model"]["merges"])]
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    line = text.split("\n")[0]
    (ids,) = tokenizer.encode_batch([line])
    assert tokenizer.word_starts()[ids].sum() == line.count(" ")
    masked = tokenizer.tokens(tokenizer.encode_marked("12 [MASK] 13"))
    assert masked[:2] == ["12", "[MASK]"]  # [MASK] takes the space before it
    assert masked[2].startswith("Ġ")


@pytest.mark.parametrize("option", ["byte_fallback", "byte_level"])
def test_with_bytes_any_text_decodes_to_itself(tmp_path_factory, text, option):
    directory = tmp_path_factory.mktemp("bytes")
    make(directory, text, 100, lowercase=False, **{option: True})
    tokenizer = Tokenizer.load(directory / "tokenizer.json")

    @given(st.text(st.characters(codec="utf-8"), max_size=20))
    def check(any_text):
        # Metaspace writes a blank as a mark, and takes a leading blank for its own.
        line = unicodedata.normalize("NFC", any_text).replace("▁", "").strip(" ")
        (ids,) = tokenizer.encode_batch([line])
        assert set(ids).isdisjoint(tokenizer.unmaskable_ids)
        assert tokenizer.decode(ids) == line

    check()


def test_byte_options_exclude_each_other():
    with pytest.raises(ValueError, match="--byte_level and --byte_fallback exclude each other"):
        ByteOptions(byte_fallback=True, byte_level=True)


def test_rare_characters_keep_their_neighbors_apart(tmp_path):
    """`q` and `x` are never adjacent: there is always a rare character between them."""
    rare = [chr(0x4E00 + number) for number in range(60)]
    text = "\n".join(f"q{character}x ab ab" for character in rare)
    content = make(tmp_path, text, 3, min_count=5)
    assert not any("q" in token and "x" in token for token in content["model"]["vocab"])
    with pytest.raises(ValueError, match="the text has only 3 merges"):
        make(tmp_path, text, 50, min_count=5, name="more.json")


def test_merges_are_learned_from_the_words_of_the_tokenizer(tmp_path, text):
    """Training splits text into the same words as the tokenizer that it makes."""
    odd = text + "\n▁a b▁c ▁▁ x\nΑΣ ΑΣΑ İI ﬃ É é\n" * 6
    make(tmp_path, odd, 50)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with open_sources(str(tmp_path / "text.txt"), tmp_path) as sources:
        characters = train_tokenizer._frequent_characters(sources, True, 1, Counter())
        words = Counter(
            word
            for line in train_tokenizer._marked_words(sources, True, characters)
            for word in line.split()
        )
    expected = Counter(
        word
        for line in odd.split("\n")
        if line
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(
            backend.normalizer.normalize_str(" ".join(line.split()))
        )
    )
    # The only difference: a word of the text that begins with a mark, as `▁a` or as `▁`, `▁a`.
    for word in ("▁", "▁a", "▁▁"):
        words.pop(word, 0), expected.pop(word, 0)
    assert words == expected


def test_lower_casing_equals_that_of_the_library():
    characters = map(chr, range(1, 0x110000))
    assigned = (x for x in characters if unicodedata.category(x) not in ("Cn", "Cs"))
    everything = "".join(assigned)  # in the Unicode version of this Python
    library = tokenizers.normalizers.Lowercase().normalize_str(everything)
    assert everything.replace("Σ", "σ").lower() == library


def test_too_few_merges_are_an_error_with_their_number(tmp_path, text):
    with pytest.raises(ValueError, match="set --merges to") as caught:
        make(tmp_path, text, 100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    most = int(
        re.search(r"the text has only ([\d,]+) merges", str(caught.value))[1].replace(",", "")
    )
    content = make(tmp_path, text, most)
    merged = {"".join(pair) for pair in content["model"]["merges"]}
    assert len(merged) == most


def test_small_vocabularies_are_the_first_merges_of_large_ones(tmp_path, text):
    (tmp_path / "text").write_text(text)
    with open_sources(str(tmp_path / "text"), tmp_path) as sources:
        large = train_tokenizer.learn(sources, 500, lowercase=True, min_count=5)
        for merges in (1, 50, 200, 499, 500):
            small = train_tokenizer.learn(sources, merges, lowercase=True, min_count=5)
            alone = train_tokenizer.build(small, merges, lowercase=True)
            assert train_tokenizer.build(large, merges, lowercase=True) == alone


@pytest.mark.slow
def test_small_vocabularies_of_real_text_are_the_first_merges_of_large_ones(tmp_path, corpus):
    spec = f"{corpus}/tiny/ko.txt,{corpus}/tiny/en.txt"
    with open_sources(spec, tmp_path) as sources:
        large = train_tokenizer.learn(sources, 8000, lowercase=True, min_count=5)
        for merges in (1000, 3000, 5000):
            small = train_tokenizer.learn(sources, merges, lowercase=True, min_count=5)
            alone = train_tokenizer.build(small, merges, lowercase=True)
            assert train_tokenizer.build(large, merges, lowercase=True) == alone


def test_bytes_do_not_depend_on_files_and_their_order(tmp_path, text):
    make(tmp_path, text, 200)
    expected = (tmp_path / "tokenizer.json").read_bytes()
    lines = text.split("\n")
    (tmp_path / "x.txt").write_text("\n".join(lines[500:]))
    (tmp_path / "y.txt").write_text("\n".join(lines[:500]))
    for number, names in enumerate([("x.txt", "y.txt"), ("y.txt", "x.txt")]):
        path = tmp_path / f"{number}.json"
        make_tokenizer(",".join(str(tmp_path / name) for name in names), 200, path, True, 5)
        assert path.read_bytes() == expected


@given(st.lists(st.text("ab[MASK]UN▁ ", max_size=20), min_size=1, max_size=5))
def test_special_tokens_in_the_text_are_not_merged(tmp_path_factory, lines):
    directory = tmp_path_factory.mktemp("special")
    (directory / "a").write_text("\n".join([*lines, "ab", "x[MASK]y"] * 9))
    with open_sources(str(directory / "a"), directory) as sources:
        vocabulary = train_tokenizer.learn(sources, 60, lowercase=False, min_count=1)
    merged = {"".join(merge) for merge in vocabulary.merges}
    assert not merged & set(SPECIALS)


def test_a_finished_tokenizer_is_kept(tmp_path, text, capsys):
    make(tmp_path, text, 100)
    time = (tmp_path / "tokenizer.json").stat().st_mtime_ns
    capsys.readouterr()
    make(tmp_path, text, 100)
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "tokenizer.json").stat().st_mtime_ns == time


@pytest.mark.parametrize(
    "change",
    [
        {"merges": 99},
        {"lowercase": False},
        {"min_count": 6},
        {"text": "other text\n" * 9},
        {"byte_fallback": True},
        {"byte_level": True},
    ],
)
def test_another_tokenizer_is_not_overwritten(tmp_path, text, change):
    make(tmp_path, text, 100)
    before = (tmp_path / "tokenizer.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"tokenizer.json already exists"):
        make(tmp_path, **({"text": text, "merges": 100} | change))
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"mine.json already exists"):
        make(tmp_path, text, 100, name="mine.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merges": 0}, "--merges is 0"),
        ({"min_count": 0}, "--min_count is 0"),
        ({"text": "abc\n"}, "no character occurs at least 5 times"),
        ({"text": "\n\n\n"}, "no character occurs at least 5 times"),
        ({"text": "\n\n\n", "byte_level": True}, "the text has no line"),
        ({"text": "a b\n", "byte_level": True}, "the text has only 0 merges"),
    ],
)
def test_mistakes_are_errors_and_write_nothing(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **({"text": text, "merges": 10} | options))
    assert not (tmp_path / "tokenizer.json").exists()
