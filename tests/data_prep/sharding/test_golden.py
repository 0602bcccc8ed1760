"""The bytes of shards are fixed: another version of the program must not change them.

A change that is intended must raise `FORMAT` in `data_prep/sharding/options.py`, and update the
digests here.
"""

import hashlib
import json
from pathlib import Path

import pytest

from bertds.data.shards.format import StoredMasking
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards

WORDS = [f"말{number}" if number % 3 else f"word{number}" for number in range(17)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASKING = StoredMasking(seed=5, ratio=0.2, mask_share=0.8, random_share=0.1, unit="token", copies=2)
OPTIONS = {
    "plain": ShardOptions(special_tokens=False),
    "framed": ShardOptions(seq_len=8, seed=3),
    "joined": ShardOptions(seq_len=32, join="documents"),
    "static": ShardOptions(masking=MASKING),
}
EXPECTED = {
    "plain": "5423821792717d77a6f36007e1a1733ad6c326d32476ce5cbe3e292c11bf5e07",
    "framed": "dec006a46d4b614f101e8df1e64dd80ca3f76c4c4aca48b1f23f83b94798f748",
    "joined": "058d0607d40fd0296dd6c91442bcb0904f9d58596683767866f39a5f00582f2b",
    "static": "b822302e0bc6ff92f52d6d2832675c6eb4f12beca76aea3ab6040e6f08a06fb5",
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
