"""Checks every byte of a shard against its index."""

import hashlib
import os

from bertds.data.shards.format import BLOCKS_NAME, END_OF_TAR, TOKENIZER_NAME, Block
from bertds.data.shards.reader import ShardSet, has_own_tokenizer
from bertds.errors import ShardError


def verify_frame(shards: ShardSet) -> list[str]:
    """The faults of a set outside its shards: block table, tokenizer, files of no one."""
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
    """The faults of one shard: its hash, its blocks, and what the index says; a second a GiB."""
    shard = shards.index.shards[number]
    path = shards.directory / shard.name
    faults = []
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            faults.append(f"{path}: its SHA-256 is not the one in the index")
        file.seek(-len(END_OF_TAR), os.SEEK_END)
        if file.read() != END_OF_TAR:
            faults.append(f"{path}: it does not end as a tar does")
    tokens = max_id = max_length = 0
    for number_of_block in shards.blocks_of(number):
        try:
            block = shards.read_block(number_of_block)
        except ShardError as error:
            return [*faults, str(error)]
        tokens += len(block.tokens)
        max_id = max(max_id, int(block.tokens.max()))
        max_length = max(max_length, int(block.lengths.max()))
        faults += [f"{path}: block {number_of_block}: {fault}" for fault in _copy_faults(block)]
    if (tokens, max_id, max_length) != (shard.tokens, shard.max_id, shard.max_length):
        faults.append(f"{path}: its tokens, largest id or length are not those in the index")
    return faults


def _copy_faults(block: Block) -> list[str]:
    """Faults of the pre-masked copies: their ids may differ from the tokens where they predict."""
    faults = []
    for number, (inputs, positions) in enumerate(zip(block.inputs, block.positions, strict=True)):
        kept = inputs == block.tokens
        kept[positions] = True
        if not kept.all():
            faults.append(f"copy {number} differs from the tokens where nothing is predicted")
    return faults
