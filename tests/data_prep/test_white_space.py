"""Kept white space: documents come back from the shards and the exported tokenizer as they were."""

import csv
import json
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from bertds.huggingface.tokenizer import standalone_tokenizer
from data_prep.readers.cleaning import clean_lines
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from data_prep.tokenizer_file import ByteOptions
from data_prep.train_tokenizer import make_tokenizer
from tests.data_prep.sharding.shard_contents import read_texts

DOCUMENTS = [
    "def f(x):\n    if x:\n\t\treturn  1\n\n\n",
    "for i in y:\r\n    print(i)\r\n",
    "\tone tab 😀\n  \n\n\nx\u3000y\x0c",
]
KEPT = [document.replace("\r\n", "\n") for document in DOCUMENTS]
KEEP = ByteOptions(byte_level=True, keep_white_space=True)


def write_jsonl(path: Path, documents: list[str]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    return path


def write_parquet(path: Path, documents: list[str]) -> Path:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = path.with_suffix(".parquet")
    parquet.write_table(pa.table({"text": documents}), path)
    return path


def write_tar(path: Path, documents: list[str]) -> Path:
    path = path.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for number, document in enumerate(documents):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = len(document.encode())
            tar.addfile(info, BytesIO(document.encode()))
    return path


def write_csv(path: Path, documents: list[str]) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((each, 1) for each in documents)])
    return path


def train(directory: Path, name: str, options: ByteOptions) -> Path:
    source = write_jsonl(directory / f"{name}-text", DOCUMENTS * 3)
    make_tokenizer(str(source), 20, directory / f"{name}.json", False, 1, options)
    return directory / f"{name}.json"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("white_space")


@pytest.fixture(scope="module")
def keeping(directory):
    return train(directory, "keeping", KEEP)


@pytest.fixture(scope="module")
def collapsing(directory):
    return train(directory, "collapsing", ByteOptions(byte_level=True))


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_tar, write_csv])
@pytest.mark.parametrize("asked", ["by the tokenizer", "by the flag"])
def test_documents_come_back_from_the_shards(tmp_path, keeping, collapsing, write, asked):
    by_flag = asked == "by the flag"
    make_shards(
        str(write(tmp_path / "text", DOCUMENTS)),
        collapsing if by_flag else keeping,
        tmp_path / "out",
        ShardOptions(valid_fraction=0, special_tokens=False),
        1,
        keep_white_space=by_flag,
    )
    assert sorted(read_texts(tmp_path / "out" / "train")) == sorted(KEPT)
    assert Tokenizer.load(tmp_path / "out" / "train" / "tokenizer.json").keeps_white_space


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_tar, write_csv])
def test_white_space_collapses_by_default(tmp_path, collapsing, write):
    source = str(write(tmp_path / "text", DOCUMENTS))
    options = ShardOptions(valid_fraction=0, special_tokens=False)
    make_shards(source, collapsing, tmp_path / "out", options, 1)
    texts = read_texts(tmp_path / "out" / "train")
    assert sorted(texts) == sorted(" ".join(document.split()) for document in DOCUMENTS)


def test_merges_of_white_space_are_learned(keeping):
    tokenizer = Tokenizer.load(keeping)
    names = tokenizer.tokens([*range(tokenizer.vocab_size)])
    assert "ĊĠĠĠ" in names
    starts = tokenizer.word_starts()
    assert all(starts[names.index(name)] for name in ("Ċ", "ĉ", "Ġ", "ĊĠĠĠ"))


@given(st.lists(st.text(st.sampled_from("ab \t\n\r\x0b\u3000\u2028é[MASK]")), max_size=5))
def test_exported_tokenizer_equals_data_prep(keeping, documents):
    tokenizer = Tokenizer.load(keeping)
    lines = "".join(json.dumps({"text": each}) + "\n" for each in documents).encode()
    cleaned = clean_lines(lines, "jsonl", Counter(), keep_white_space=True)
    standalone = standalone_tokenizer(tokenizer, add_special_tokens=False)
    ids = standalone.encode_batch([each for each in documents if each and not each.isspace()])
    assert ids == tokenizer.encode_batch(cleaned)
    assert standalone.keeps_white_space


def test_transformers_gives_the_same_ids(keeping, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(keeping)
    standalone = standalone_tokenizer(tokenizer, add_special_tokens=False)
    (tmp_path / "tokenizer.json").write_bytes(standalone.content)
    loaded = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), mask_token="[MASK]", pad_token="[PAD]"
    )
    for document, ids in zip(DOCUMENTS, tokenizer.encode_batch(DOCUMENTS), strict=True):
        assert loaded(document).input_ids == ids
    text = "for i in y:\r\n    [MASK] x"
    assert loaded(text).input_ids == standalone.encode_marked(text)
    loaded.save_pretrained(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved" / "tokenizer.json").keeps_white_space


def test_a_mask_replaces_a_word_with_its_blank_but_no_line_break(keeping):
    tokenizer = Tokenizer.load(keeping)
    blank = tokenizer.tokens(tokenizer.encode_marked("x [MASK]\n"))
    assert blank == ["x", "[MASK]", "Ċ"]
    indented = tokenizer.tokens(tokenizer.encode_marked("x\n    [MASK] x"))
    assert indented[:3] == ["x", "ĊĠĠĠ", "[MASK]"]


def test_white_space_is_ignored_in_duplicates_and_the_split(tmp_path, keeping, collapsing):
    documents = [f"x = {number}\n\ty  {number}" for number in range(60)]
    source = str(write_jsonl(tmp_path / "text", [*documents, "X = 7 y 7", *documents]))
    texts = {}
    for path in (keeping, collapsing):
        out = tmp_path / path.stem
        make_shards(source, path, out, ShardOptions(valid_fraction=0.3), 1)
        assert ShardSet.open(out / "train").index.lines < 60
        texts[path] = [
            sorted(" ".join(each.lower().split()) for each in read_texts(out / split))
            for split in ("train", "valid")
        ]
        assert sum(map(len, texts[path])) == 60
    assert texts[keeping] == texts[collapsing]


def test_a_tokenizer_that_loses_white_space_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="--keep_white_space needs --byte_level"):
        ByteOptions(keep_white_space=True)
    source = str(write_jsonl(tmp_path / "text", DOCUMENTS * 3))
    make_tokenizer(source, 5, tmp_path / "t.json", False, 1)
    with pytest.raises(ValueError, match="this one does not tell them apart"):
        make_shards(
            source, tmp_path / "t.json", tmp_path / "o", ShardOptions(), 1, keep_white_space=True
        )
    assert not (tmp_path / "o").exists()
