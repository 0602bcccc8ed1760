"""What shapes a shard set, and the identities that follow from it."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bertds.data.shards.format import MAX_COPIES, StoredMasking
from bertds.data.shards.writer import SHARD_BYTES
from bertds.data.tokenizer import Tokenizer
from data_prep.readers.sources import Source
from data_prep.sharding.rows import Split

FORMAT = 1  # raised when the same options would give other bytes
MIN_SEQ_LEN, MAX_SEQ_LEN = 4, 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceFormat:
    """How rows become sequences.

    Attributes:
        cls_id: Put before each sequence, if there is one.
        sep_id: Put after each document if there is a `cls_id`, else only between joined ones.
        join: Whether short documents share a sequence.
        seq_len: The most tokens of a sequence.
    """

    cls_id: int | None
    sep_id: int | None
    join: Literal["none", "documents"]
    seq_len: int

    @property
    def max_row(self) -> int:
        """The most tokens of a row."""
        return self.seq_len if self.cls_id is None else self.seq_len - 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOptions:
    """What shapes the shards; workers and paths do not.

    Attributes:
        valid_fraction: Share of the lines that become the validation set.
        seq_len: The most tokens of a sequence, special ones included.
        special_tokens: Whether `[CLS]` and `[SEP]` frame a sequence.
        join: Whether short lines share a sequence.
        masking: Pre-masked copies to write, if any.
        dedup: Whether a line that came before, but for case, is dropped.
        seed: Of the order.
        shard_bytes: About the size of a shard.
    """

    valid_fraction: float = 0.1
    seq_len: int = 256
    special_tokens: bool = True
    join: Literal["none", "documents"] = "none"
    masking: StoredMasking | None = None
    dedup: bool = True
    seed: int = 0
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"--valid_fraction is {self.valid_fraction}, wanted is 0 to below 1")
        if not MIN_SEQ_LEN <= self.seq_len <= MAX_SEQ_LEN:
            raise ValueError(
                f"--seq_len is {self.seq_len}, wanted is {MIN_SEQ_LEN} to {MAX_SEQ_LEN}"
            )
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, wanted is 0 or more")

    def framing(self, tokenizer: Tokenizer) -> SequenceFormat:
        """How rows become sequences with this tokenizer.

        Raises:
            ValueError: It lacks a token that the options need.
        """
        ids = tokenizer.special_ids
        if self.special_tokens and not {"cls", "sep"} <= ids.keys():
            raise ValueError(
                "the tokenizer has no [CLS] and [SEP] to frame a sequence with: use one that has "
                "them, or --nospecial_tokens"
            )
        if self.join == "documents" and "sep" not in ids:
            raise ValueError("the tokenizer has no [SEP] to put between documents: drop --join")
        return SequenceFormat(
            cls_id=ids["cls"] if self.special_tokens else None,
            sep_id=ids.get("sep"),
            join=self.join,
            seq_len=self.seq_len,
        )


def masking_of(
    masking: Literal["none", "static"], copies: int, ratio: float, unit: str, seed: int
) -> StoredMasking | None:
    """The masking of pre-masked copies, 80/10/10 as online.

    Raises:
        ValueError: A number is out of its range.
    """
    if masking == "none":
        return None
    if not 1 <= copies <= MAX_COPIES:
        raise ValueError(f"--copies is {copies}, wanted is 1 to {MAX_COPIES}")
    if not 0 < ratio < 1:
        raise ValueError(f"--mask_ratio is {ratio}, wanted is between 0 and 1")
    return StoredMasking(
        seed=seed,
        ratio=ratio,
        mask_share=0.8,
        random_share=0.1,
        unit="word" if unit == "word" else "token",
        copies=copies,
    )


def recipe_of(
    tokenizer: Tokenizer, options: ShardOptions, sources: Sequence[Source]
) -> dict[str, Any]:
    """All that the bytes depend on: equal recipes, equal shards."""
    return {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "options": dataclasses.asdict(options),
        "sources": [source.identity for source in sources],
    }


def set_key_of(tokenizer: Tokenizer, options: ShardOptions, split: Split, hash_sum: int) -> int:
    """64 bits that name a set by its content, whatever the order or files of its lines."""
    parts = (
        tokenizer.fingerprint,
        options.seq_len,
        options.special_tokens,
        options.join,
        options.seed,
        split,
        hash_sum,
    )
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")
