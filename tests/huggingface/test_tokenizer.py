"""A text gets the ids that it has in the shards, by the library alone."""

import json
import random
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import tokenizers

from bertds.cli import run
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from bertds.huggingface.tokenizer import tokenizer_config, standalone_tokenizer
from data_prep.__main__ import COMMANDS
from data_prep.readers.cleaning import clean_lines

transformers = pytest.importorskip("transformers")
DIRTY = [
    "  두  칸 \t 띄우고\u3000끝\xa0",
    "A\x00B\ufeff c\x07",
    "cafe\u0301 \u1112\u1161\u11ab\u1100\u1173\u11af",  # not NFC
    "line\u2028separator\x1c and \x85 next",
    "Ünïcode ÀÉ ΣΑΣ",
]


def command(*arguments: object) -> None:
    assert run("python -m data_prep", COMMANDS, [str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def text(tmp_path_factory, lines) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join([*lines["ko"][:150], *lines["en"][:150], *DIRTY]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer_path(text) -> Path:
    path = text.with_name("tokenizer.json")
    command("tokenizer", "--input", text, "--merges", 100, "--out", path, "--lowercase",
            "--min_count", 1)  # fmt: skip
    return path


def loaded(tokenizer: Tokenizer, directory: Path, *, framed: bool):
    (directory / "tokenizer.json").write_bytes(standalone_tokenizer(tokenizer, framed=framed).content)
    settings = tokenizer_config(tokenizer, 64)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text('{"model_type": "bert"}')
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("framed", [True, False])
def test_ids_are_those_of_the_shards(text, tokenizer_path, tmp_path, framed):
    """Of every line, dirty ones included: the rows of the shards are the library's."""
    flag = "--special_tokens" if framed else "--nospecial_tokens"
    out = tmp_path / "data"
    command("shard", "--input", text, "--tokenizer", tokenizer_path, "--out", out,
            "--valid_fraction", 0, "--workers", 1, flag)  # fmt: skip
    shards = ShardSet.open(out / "train")
    rows: Counter[tuple[int, ...]] = Counter()
    for number in range(shards.num_blocks):
        block, start = shards.read_block(number), 0
        for length in block.lengths.tolist():
            rows[tuple(block.tokens[start : start + length].tolist())] += 1
            start += length
    library = loaded(Tokenizer.load(tokenizer_path), tmp_path, framed=framed)
    found = Counter(tuple(library(line).input_ids) for line in text.read_text().split("\n"))
    assert set(found) == set(rows)
    assert library.model_max_length == 64
    assert library.mask_token == "[MASK]"


def test_special_tokens_are_read_and_a_mask_takes_the_blank_before_it(tokenizer_path, tmp_path):
    tokenizer = Tokenizer.load(tokenizer_path)
    library = loaded(tokenizer, tmp_path, framed=True)
    special = tokenizer.special_ids
    ids = library("ba  [MASK] co[MASK]").input_ids
    (ba,), (co,) = (tokenizer.encode_batch([word]) for word in ("ba", "co"))
    mask = special["mask"]
    assert ids == [special["cls"], *ba, mask, *co, mask, special["sep"]]
    pair = library("ba", "co").input_ids
    assert pair == [special["cls"], *ba, special["sep"], *co, special["sep"]]
    assert library("ba", "co", padding="max_length", max_length=20).input_ids.count(0) > 5
    assert library.decode(ba + co) == "ba co"


def test_cleaning_is_that_of_the_shards_for_any_character(tokenizer_path):
    """Every character that data_prep or Unicode treats in a way of its own, and some others."""
    tokenizer = Tokenizer.load(tokenizer_path)
    whole = standalone_tokenizer(tokenizer, framed=False)
    generator = random.Random(0)
    points = [*range(0x250), *range(0x2000, 0x2070), 0x3000, 0xFEFF]
    points += generator.sample(range(0x250, 0xD800), 2000) + generator.sample(
        range(0xE000, 0x110000), 500
    )
    texts = [f"a{chr(point)}b {chr(point)} " for point in points if point != ord("\n")]
    cleaned = [clean_lines(f"{text}\n".encode(), "lines", Counter()) for text in texts]
    expected = tokenizer.encode_batch([line for (line,) in cleaned])
    assert whole.encode_batch(texts) == expected


def test_a_text_has_the_same_ids_each_time(tokenizer_path):
    """A tokenizer.json may ask for BPE's dropout, which neither shards nor export obey."""
    content = json.loads(tokenizer_path.read_text())
    content["model"]["dropout"] = 0.5
    tokenizer = Tokenizer.of(json.dumps(content).encode(), "here")
    whole = standalone_tokenizer(tokenizer, framed=False)
    library = tokenizers.Tokenizer.from_str(whole.content.decode())
    text = "ba co der fin go hal ith jun"
    assert {tuple(library.encode(text).ids) for _ in range(20)} == {
        tuple(tokenizer.encode_batch([text])[0])
    }


def test_a_foreign_tokenizer_cleans_a_text_too_but_keeps_the_blank_beside_a_mask():
    """One of bytes, for which a blank is a token: ids as in the shards, of any text in between."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<mask>", *alphabet]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = tokenizers.processors.ByteLevel()
    backend.add_special_tokens(["<pad>", "<mask>"])
    backend.enable_truncation(3)
    tokenizer = Tokenizer.of(backend.to_str().encode(), "here")
    whole = standalone_tokenizer(tokenizer, framed=False)
    texts = ["the  strange\twolf", unicodedata.normalize("NFD", "한국어 문장"), "a\x00b\u3000c"]
    cleaned = [clean_lines(f"{text}\n".encode(), "lines", Counter()) for text in texts]
    expected = tokenizer.encode_batch([line for (line,) in cleaned])
    assert whole.encode_batch(texts) == expected
    assert whole.encode_marked("a  <mask> b") == [
        names.index(one) for one in ("a", "Ġ", "<mask>", "Ġ", "b")
    ]
