"""Fuzzes the readers: any bytes are rejected by name, or are a valid set; nothing else happens.

    python tests/data/shards/fuzz_readers.py CORPUS_DIR -max_total_time=1200        (`make fuzz`)

libFuzzer (through atheris) mutates a short program of edits that is applied to a small valid set:
bytes of a file, values of the index with hashes and sizes corrected, members of a block behind valid
headers. So a mutation passes the outer checks and reaches the inner ones. A test replays the
findings, which are in `fuzz_corpus.txt`.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from bertds.data.shards.format import (
    BLOCKS_NAME,
    INDEX_NAME,
    Block,
    StoredMasking,
    _tar_header,
    decode_block,
    encode_block,
    member_names,
    npy_header,
    read_index,
)
from bertds.data.shards.reader import ShardSet
from bertds.data.shards.writer import SetFacts, shard_name, write_index, write_shard
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ShardError
from tests.helpers.shard_verify import faults_of

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASKING = StoredMasking(
    seed=5, ratio=0.15, mask_share=0.8, random_share=0.1, unit="token", copies=1
)


VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 7, 255, 65_535, 65_536, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 64),
    *(0.5, 1e308, "", "uint32", "../x.tar", "shard-000001.tar", [], {}, "0" * 64, "f" * 16),
)


class Program:
    """A stream of numbers from the fuzzer's bytes; zeros after their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def is_over(self) -> bool:
        return self._position >= len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._position : self._position + count]
        self._position += count
        return piece.ljust(count, b"\0")

    def below(self, limit: int) -> int:
        return int(struct.unpack("<I", self.take(4))[0]) % max(1, limit)


def make_set(directory: Path, copies: int) -> None:
    """Write three blocks in two shards."""
    words = {name: number for number, name in enumerate([*SPECIAL, "a", "b", "c", "d"])}
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(SPECIAL)
    directory.mkdir(parents=True)
    backend.save(str(directory / "tokenizer.json"))
    masking = MASKING if copies else None
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    facts = SetFacts(
        tokenizer=tokenizer, seq_len=8, special_tokens=False, set_key=3, masking=masking
    )
    tokens, lengths = np.array([5, 6, 7, 8, 5], np.uint16), np.array([2, 3], np.uint16)
    inputs, positions = np.array([5, 4, 7, 8, 4], np.uint16), np.array([1, 4], np.uint32)
    block = Block(
        tokens=tokens, lengths=lengths, inputs=(inputs,) * copies, positions=(positions,) * copies
    )
    written = [
        write_shard(directory / shard_name(0), 0, [block, block]),
        write_shard(directory / shard_name(1), 2, [block]),
    ]
    write_index(directory, written, facts)


def edit_bytes(directory: Path, program: Program) -> None:
    """Overwrite, cut or lengthen a file."""
    names = sorted(path.name for path in directory.iterdir())
    path = directory / names[program.below(len(names))]
    content = bytearray(path.read_bytes())
    offset = program.below(len(content) + 1)
    kind = program.below(3)
    if kind == 0:
        piece = program.take(1 + program.below(8))
        content[offset : offset + len(piece)] = piece
    elif kind == 1:
        del content[offset:]
    else:
        content += program.take(program.below(1024))
    path.write_bytes(content)


def edit_index(directory: Path, program: Program) -> None:
    """Replace a value in the index."""
    path = directory / INDEX_NAME
    try:
        block: Any = json.loads(path.read_text())
    except ValueError:  # an earlier edit
        return
    index = block
    while True:
        keys = list(block) if isinstance(block, dict) else list(range(len(block)))
        if not keys:
            return
        key = keys[program.below(len(keys))]
        if not isinstance(block[key], dict | list) or program.below(4) == 0:
            break
        block = block[key]
    block[key] = VALUES[program.below(len(VALUES))]
    path.write_text(json.dumps(index))


def edit_table(directory: Path, program: Program) -> None:
    """Replace a number in the block table, and its hash in the index."""
    path = directory / BLOCKS_NAME
    content = bytearray(path.read_bytes())
    if len(content) < 132:
        return
    offset = 128 + 4 * program.below((len(content) - 128) // 4)
    content[offset : offset + 4] = program.take(4)
    path.write_bytes(content)
    with contextlib.suppress(ValueError, TypeError):
        index = json.loads((directory / INDEX_NAME).read_text())
        index["blocks_sha256"] = hashlib.sha256(content).hexdigest()
        (directory / INDEX_NAME).write_text(json.dumps(index))


EDITS: tuple[Callable[[Path, Program], None], ...] = (edit_bytes, edit_index, edit_table)


def read_everything(directory: Path) -> None:
    """Read as training and `verify` do; a set that passes must be valid."""
    with contextlib.suppress(ShardError):
        read_index(directory)
    assert all(isinstance(fault, str) for fault in faults_of(directory))
    for skips in (False, True):
        with contextlib.suppress(ShardError):
            shards = ShardSet.open(directory, skips_bad=skips)
            for number in range(min(shards.num_blocks, 10)):
                if skips:
                    assert_valid(
                        shards.read_block_or_substitute(number, shards.num_blocks)[1], shards.index
                    )
                else:
                    assert_valid(shards.read_block(number), shards.index)


def assert_valid(block: Block, index: Any) -> None:
    assert int(block.lengths.sum(dtype=np.int64)) == len(block.tokens)
    assert 0 < int(block.lengths.min()) <= int(block.lengths.max()) <= index.seq_len
    for ids in (block.tokens, *block.inputs):
        assert len(ids) == len(block.tokens)
        assert int(ids.max()) < index.vocab_size
    for positions in block.positions:
        assert len(positions) == 0 or int(positions[-1]) < len(block.tokens)


def read_members(program: Program, index: Any) -> None:
    """Decode a block with valid headers around arrays of any bytes."""
    content = b""
    for name in member_names(0, index.copies):
        kind = ("uint16", "uint32")[program.below(2)]
        count = program.below(9)
        array = program.take(count * (2 if kind == "uint16" else 4))
        header = npy_header(kind, (count,)) if program.below(8) else program.take(128)
        member = header + array
        content += _tar_header(name, len(member)) + member + bytes(-len(member) % 512)
    try:
        block = decode_block(content, 0, index)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert_valid(block, index)
    assert encode_block(0, block) == content


class Readers:
    """Valid sets of both kinds, of which copies are edited."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        for copies in (0, 1):
            make_set(scratch / f"valid{copies}", copies)
            assert faults_of(scratch / f"valid{copies}") == []

    def one_input(self, data: bytes) -> None:
        """Run a program of edits, then read the result."""
        program = Program(data)
        valid = self._scratch / f"valid{program.below(2)}"
        if program.below(2):
            read_members(program, read_index(valid))
            return
        directory = self._scratch / "edited"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(valid, directory)
        try:
            for _ in range(4):
                if not program.is_over:
                    EDITS[program.below(len(EDITS))](directory, program)
            read_everything(directory)
        finally:
            shutil.rmtree(directory)


def main() -> None:
    """Fuzz until an option of libFuzzer ends it."""
    import atheris

    logging.disable()  # `skips_bad` logs each damaged block
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        readers = Readers(Path(scratch))
        atheris.instrument_all()
        atheris.Setup(sys.argv, readers.one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
