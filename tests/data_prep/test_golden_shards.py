"""The bytes of shards, for ever: another version of the program must not move a line or a sequence.

Where one must be changed, `FORMAT` of `shard_options.py` is raised, and these values with it.
"""

import hashlib
import json
from pathlib import Path

import pytest

from bertds.data.shard_format import StoredMasking
from data_prep.make_shards import make_shards
from data_prep.shard_options import ShardOptions

WORDS = [
    "ba",
    "co",
    "der",
    "fin",
    "go",
    "hal",
    "ith",
    "jun",
    "kel",
    "lo",
    "mar",
    "ness",
    "가",
    "나",
    "달",
    "래",
    "모",
    "빛",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASKING = StoredMasking(seed=5, ratio=0.2, mask_share=0.8, random_share=0.1, unit="token", copies=2)
OPTIONS = {
    "plain": ShardOptions(special_tokens=False),
    "framed": ShardOptions(seq_len=8, seed=3),
    "joined": ShardOptions(seq_len=32, join="documents"),
    "static": ShardOptions(masking=MASKING),
}
EXPECTED = {
    "plain": "",
    "framed": "",
    "joined": "",
    "static": "",
}


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bytes whatever version of tokenizers is installed."""
    special = [
        {"id": number, "content": name, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, name in enumerate(SPECIAL)
    ]
    vocabulary = {name: number for number, name in enumerate([*SPECIAL, *WORDS])}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", OPTIONS)
def test_shards_are_these_bytes(name: str, tokenizer_path: Path, tmp_path: Path) -> None:
    lines = [
        " ".join(WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(number % 17))
        for number in range(200)
    ]
    (tmp_path / "text").write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "out"
    make_shards(str(tmp_path / "text"), tokenizer_path, out, OPTIONS[name], 1)
    found = hashlib.sha256()
    for path in sorted(out.glob("*/*")):
        if path.name != "tokenizer.json":
            found.update(f"{path.relative_to(out)} {path.stat().st_size}\n".encode())
            found.update(path.read_bytes())
    assert found.hexdigest() == EXPECTED[name]
