"""Verification of shard sets: every byte is checked against the index."""

import hashlib
import os

import numpy as np

from bertds.data.shards.format import BLOCKS_NAME, END_OF_TAR, TOKENIZER_NAME
from bertds.data.shards.reader import ShardSet, has_own_tokenizer
from bertds.errors import ShardError


def verify_frame(shards: ShardSet) -> list[str]:
    """List the faults outside the shards: block table, tokenizer, tar files not in the index."""
    faults = []
    blocks, tokenizer = shards.directory / BLOCKS_NAME, shards.directory / TOKENIZER_NAME
    if hashlib.sha256(blocks.read_bytes()).hexdigest() != shards.index.blocks_sha256:
        faults.append(f"{blocks}: its SHA-256 is not the one in the index")
    if not tokenizer.is_file():
        faults.append(f"{tokenizer} is missing")
    elif not has_own_tokenizer(shards):
        faults.append(f"{tokenizer}: it is not the tokenizer that the index names")
    named = {shard.name for shard in shards.index.shards}
    for path in sorted(shards.directory.glob("*.tar")):
        if path.name not in named:
            faults.append(f"{path}: the index does not name it")
    return faults


def verify_shard(shards: ShardSet, number: int) -> list[str]:
    """List the faults of one shard: hash, blocks, index entry. Takes about 1 s/GiB."""
    shard = shards.index.shards[number]
    path = shards.directory / shard.name
    faults = []
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            faults.append(f"{path}: its SHA-256 is not the one in the index")
        file.seek(-len(END_OF_TAR), os.SEEK_END)
        if file.read() != END_OF_TAR:
            faults.append(f"{path}: the end of the tar is missing")
    tokens = max_id = max_length = 0
    for block_number in shards.blocks_of(number):
        try:
            block = shards.read_block(block_number)
        except ShardError as error:
            return [*faults, str(error)]
        tokens += len(block.tokens)
        max_id = max(max_id, int(block.tokens.max()))
        max_length = max(max_length, int(block.lengths.max()))
        for copy, (inputs, positions) in enumerate(zip(block.inputs, block.positions, strict=True)):
            may_differ = np.zeros(len(inputs), dtype=bool)
            may_differ[positions] = True
            if not (may_differ | (inputs == block.tokens)).all():
                faults.append(
                    f"{path}: block {block_number}: copy {copy} differs from the tokens where "
                    "nothing is predicted"
                )
    if (tokens, max_id, max_length) != (shard.tokens, shard.max_id, shard.max_length):
        faults.append(f"{path}: its tokens, largest id or length differ from the index")
    return faults
