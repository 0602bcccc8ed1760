"""The exported tokenizer, loaded by transformers, gives a text the ids that it has in the shards."""

import json
import random
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import tokenizers

from bertds.cli import run
from bertds.config.schema import ModelConfig
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from bertds.huggingface.tokenizer import standalone_tokenizer, tokenizer_config
from data_prep.__main__ import COMMANDS
from data_prep.readers.cleaning import clean_lines
from tests.helpers.hub_tokenizers import hub_tokenizer
from tests.helpers.tensors import SMALL

transformers = pytest.importorskip("transformers")
DIRTY = [
    "  두  칸 \t 띄우고\u3000끝\xa0",
    "A\x00B\ufeff c\x07",
    "cafe\u0301 \u1112\u1161\u11ab\u1100\u1173\u11af",  # not NFC
    "line\u2028separator\x1c and \x85 next",
    "Ünïcode ÀÉ ΣΑΣ",
]


def data_prep(*arguments: object) -> None:
    assert run("python -m data_prep", COMMANDS, [str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def text(tmp_path_factory, lines) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join([*lines["ko"][:150], *lines["en"][:150], *DIRTY]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer_path(text) -> Path:
    path = text.with_name("tokenizer.json")
    data_prep("tokenizer", "--input", text, "--merges", 100, "--out", path, "--lowercase",
              "--min_count", 1)  # fmt: skip
    return path


def load_with_transformers(tokenizer: Tokenizer, directory: Path, *, add_special_tokens: bool):
    standalone = standalone_tokenizer(tokenizer, add_special_tokens=add_special_tokens)
    (directory / "tokenizer.json").write_bytes(standalone.content)
    settings = tokenizer_config(
        tokenizer, ModelConfig.model_validate(SMALL | {"max_position_embeddings": 64})
    )
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text('{"model_type": "bert"}')
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("special_tokens", [True, False])
def test_ids_equal_those_in_the_shards(text, tokenizer_path, tmp_path, special_tokens):
    """For every line, also those that need cleaning."""
    flag = "--special_tokens" if special_tokens else "--nospecial_tokens"
    out = tmp_path / "data"
    data_prep("shard", "--input", text, "--tokenizer", tokenizer_path, "--out", out,
              "--valid_fraction", 0, "--workers", 1, flag)  # fmt: skip
    shards = ShardSet.open(out / "train")
    in_shards: set[tuple[int, ...]] = set()
    for number in range(shards.num_blocks):
        block, start = shards.read_block(number), 0
        for length in block.lengths.tolist():
            in_shards.add(tuple(block.tokens[start : start + length].tolist()))
            start += length
    hf_tokenizer = load_with_transformers(
        Tokenizer.load(tokenizer_path), tmp_path, add_special_tokens=special_tokens
    )
    assert {
        tuple(hf_tokenizer(line).input_ids) for line in text.read_text().split("\n")
    } == in_shards
    assert hf_tokenizer.model_max_length == 64
    assert hf_tokenizer.mask_token == "[MASK]"


@pytest.mark.parametrize("flag", ["--byte_fallback", "--byte_level"])
def test_byte_tokenizers_are_exported_exactly(text, tmp_path, flag):
    """Any text becomes bytes, not [UNK], and decodes to itself."""
    path = tmp_path / "bytes.json"
    data_prep("tokenizer", "--input", text, "--merges", 100, "--out", path, flag)
    tokenizer = Tokenizer.load(path)
    hf_tokenizer = load_with_transformers(tokenizer, tmp_path, add_special_tokens=False)
    lines = ["ba 😀 co👩‍👩‍👧 ＡＢＣ 漢字", "don't <0x41> x▁y", *text.read_text().split("\n")]
    cleaned = clean_lines("\n".join(lines).encode(), "lines", Counter())
    for line, ids in zip(cleaned, tokenizer.encode_batch(cleaned), strict=True):
        assert hf_tokenizer(line).input_ids == ids
        assert tokenizer.special_ids["unk"] not in ids
        decoded = line if flag == "--byte_level" else line.replace("▁", " ")
        assert tokenizer.decode(ids) == hf_tokenizer.decode(ids) == decoded
    marked = "ba [MASK] 😀"
    assert tokenizer.encode_marked(marked) == hf_tokenizer(marked).input_ids


def test_mask_in_a_text_is_the_mask_token_and_pairs_are_separated(tokenizer_path, tmp_path):
    """The blank before [MASK] gets no token."""
    tokenizer = Tokenizer.load(tokenizer_path)
    hf_tokenizer = load_with_transformers(tokenizer, tmp_path, add_special_tokens=True)
    special = tokenizer.special_ids
    ids = hf_tokenizer("ba  [MASK] co[MASK]").input_ids
    (ba,), (co,) = (tokenizer.encode_batch([word]) for word in ("ba", "co"))
    mask = special["mask"]
    assert ids == [special["cls"], *ba, mask, *co, mask, special["sep"]]
    pair = hf_tokenizer("ba", "co").input_ids
    assert pair == [special["cls"], *ba, special["sep"], *co, special["sep"]]
    padded = hf_tokenizer("ba", "co", padding="max_length", max_length=20).input_ids
    assert padded.count(special["pad"]) > 5
    assert hf_tokenizer.decode(ba + co) == "ba co"


@pytest.mark.parametrize("separators", [1, 2])
def test_pairs_are_those_of_the_file_or_else_of_the_class(tokenizer_path, separators):
    """RoBERTa has two separators between the texts of a pair, BERT one."""
    own = Tokenizer.load(tokenizer_path)  # has no post-processor
    hub = hub_tokenizer("roberta", [])  # has two separators
    for tokenizer, expected in ((own, separators), (hub, 2)):
        standalone = standalone_tokenizer(
            tokenizer, add_special_tokens=True, pair_separators=separators
        )
        (ba,), (co,) = (tokenizer.encode_batch([word]) for word in ("ba", "co"))
        cls, sep = (tokenizer.special_ids[role] for role in ("cls", "sep"))
        pair = tokenizers.Tokenizer.from_str(standalone.content.decode()).encode("ba", "co")
        assert pair.ids == [cls, *ba, *[sep] * expected, *co, sep]
        assert standalone.encode_marked("ba") == [cls, *ba, sep]
        bare = standalone_tokenizer(tokenizer, add_special_tokens=False)
        assert bare.encode_marked("ba") == ba


@pytest.mark.parametrize("kind", ["own", "xlm-roberta"])
def test_cleaning_equals_data_prep_for_any_character(tokenizer_path, kind):
    """Every character that data_prep or Unicode treats specially, and a sample of the others."""
    is_own = kind == "own"
    tokenizer = Tokenizer.load(tokenizer_path) if is_own else hub_tokenizer(kind, ["a b ab é 가"])
    standalone = standalone_tokenizer(tokenizer, add_special_tokens=False)
    generator = random.Random(0)
    points = [*range(0x250), *range(0x2000, 0x2070), 0x3000, 0xFEFF]
    points += generator.sample(range(0x250, 0xD800), 2000) + generator.sample(
        range(0xE000, 0x110000), 500
    )
    texts = [f"a{chr(point)}b {chr(point)} " for point in points if point != ord("\n")]
    cleaned = [clean_lines(f"{text}\n".encode(), "lines", Counter()) for text in texts]
    expected = tokenizer.encode_batch([line for (line,) in cleaned])
    assert standalone.encode_batch(texts) == expected


def test_bpe_dropout_is_removed(tokenizer_path):
    """A tokenizer.json may enable BPE dropout; shards and exported tokenizers ignore it."""
    content = json.loads(tokenizer_path.read_text())
    content["model"]["dropout"] = 0.5
    tokenizer = Tokenizer.of(json.dumps(content).encode(), "path")
    standalone = standalone_tokenizer(tokenizer, add_special_tokens=False)
    backend = tokenizers.Tokenizer.from_str(standalone.content.decode())
    text = "ba co der fin go hal ith jun"
    encodings = {tuple(backend.encode(text).ids) for _ in range(20)}
    assert encodings == {tuple(tokenizer.encode_batch([text])[0])}


def test_byte_level_tokenizer_cleans_a_text_but_keeps_the_blank_beside_a_mask():
    """A blank is a token of its own here, so stripping would lose it."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<mask>", *alphabet]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = tokenizers.processors.ByteLevel()
    backend.add_special_tokens(["<pad>", "<mask>"])
    backend.enable_truncation(3)
    tokenizer = Tokenizer.of(backend.to_str().encode(), "path")
    standalone = standalone_tokenizer(tokenizer, add_special_tokens=False)
    texts = ["the  strange\twolf", unicodedata.normalize("NFD", "한국어 문장"), "a\x00b\u3000c"]
    cleaned = [clean_lines(f"{text}\n".encode(), "lines", Counter()) for text in texts]
    expected = tokenizer.encode_batch([line for (line,) in cleaned])
    assert standalone.encode_batch(texts) == expected
    assert standalone.encode_marked("a  <mask> b") == [
        names.index(name) for name in ("a", "Ġ", "<mask>", "Ġ", "b")
    ]
