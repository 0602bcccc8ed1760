"""Verification of shard sets: every byte is checked against the index."""

import hashlib
import os

import numpy as np
import numpy.typing as npt

from bertds.data.shards.format import BLOCKS_NAME, END_OF_TAR, TOKENIZER_NAME, Block, Index
from bertds.data.shards.reader import ShardSet, has_own_tokenizer
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ShardError

_MAX_TEXT = 200  # characters of a sequence in a message


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


def verify_shard(shards: ShardSet, number: int, *, may_be_joined: bool = True) -> list[str]:
    """List the faults of one shard: hash, blocks, index entry. Takes about 1 s/GiB.

    Args:
        shards: The set.
        number: The number of the shard.
        may_be_joined: Whether a sequence may hold several documents, with [SEP] between them.
    """
    shard = shards.index.shards[number]
    path = shards.directory / shard.name
    faults = []
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            faults.append(f"{path}: its SHA-256 is not the one in the index")
        file.seek(-len(END_OF_TAR), os.SEEK_END)
        if file.read() != END_OF_TAR:
            faults.append(f"{path}: the end of the tar is missing")
    tokens = max_id = max_length = num_spoiled = 0
    first_spoiled = ""
    for block_number in shards.blocks_of(number):
        try:
            block = shards.read_block(block_number)
        except ShardError as error:
            return [*faults, str(error)]
        tokens += len(block.tokens)
        max_id = max(max_id, int(block.tokens.max()))
        max_length = max(max_length, int(block.lengths.max()))
        spoiled = _sequences_with_special_tokens(block, shards.index, may_be_joined)
        if len(spoiled) and not num_spoiled:
            first_spoiled = _describe_sequence(shards, block_number, block, int(spoiled[0]))
        num_spoiled += len(spoiled)
        for copy, (inputs, positions) in enumerate(zip(block.inputs, block.positions, strict=True)):
            may_differ = np.zeros(len(inputs), dtype=bool)
            may_differ[positions] = True
            if not (may_differ | (inputs == block.tokens)).all():
                faults.append(
                    f"{path}: block {block_number}: copy {copy} differs from the tokens where "
                    "nothing is predicted"
                )
    if num_spoiled:
        faults.append(
            f"{path}: special tokens inside sequences, in {num_spoiled:,} of {shard.sequences:,}; "
            f"the first is {first_spoiled}: delete the set and shard the text again"
        )
    if (tokens, max_id, max_length) != (shard.tokens, shard.max_id, shard.max_length):
        faults.append(f"{path}: its tokens, largest id or length differ from the index")
    return faults


def _sequences_with_special_tokens(
    block: Block, index: Index, may_be_joined: bool
) -> npt.NDArray[np.int64]:
    """The sequences of a block with a special token where neither [CLS] nor [SEP] belongs.

    The unknown token is none, since it stands for text.
    """
    ids = index.special_ids
    is_special = np.zeros(index.vocab_size, dtype=bool)
    is_special[list(index.unmaskable_ids)] = True
    is_special[[ids[role] for role in ("unk",) if role in ids]] = False
    if may_be_joined and "sep" in ids:
        is_special[ids["sep"]] = False
    ends = np.cumsum(block.lengths, dtype=np.int64)
    is_wrong = is_special[block.tokens]
    if index.special_tokens:
        for role, positions in (("cls", ends - block.lengths), ("sep", ends - 1)):
            is_wrong[positions] = block.tokens[positions] != ids[role]
    sequences: npt.NDArray[np.int64] = np.unique(
        np.searchsorted(ends, np.flatnonzero(is_wrong), side="right")
    )
    return sequences


def _describe_sequence(shards: ShardSet, block_number: int, block: Block, sequence: int) -> str:
    """The index of a sequence in its set, and its text if the tokenizer is there."""
    name = f"sequence {shards.first_sequence(block_number) + sequence:,}"
    if not has_own_tokenizer(shards):
        return name
    end = int(block.lengths[: sequence + 1].sum(dtype=np.int64))
    ids = block.tokens[end - int(block.lengths[sequence]) : end].tolist()
    text = Tokenizer.load(shards.directory / TOKENIZER_NAME).decode(ids)
    return f"{name} ({text[:_MAX_TEXT]!r}{'…' if len(text) > _MAX_TEXT else ''})"
