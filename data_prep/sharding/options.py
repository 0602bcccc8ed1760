"""Options of a shard set, and the identities that follow from them."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bertds.data.shards.format import MAX_COPIES, StoredMasking
from bertds.data.shards.writer import SHARD_BYTES
from bertds.data.tokenizer import Tokenizer
from data_prep.readers.sources import Source
from data_prep.sharding.rows import Split

FORMAT = 1  # to be raised when the same options give other bytes
MIN_SEQ_LEN, MAX_SEQ_LEN = 4, 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceFormat:
    """How rows become sequences.

    Attributes:
        cls_id: Id that starts each sequence, or None for no special tokens.
        sep_id: Id that ends each document. Without `cls_id` it only separates joined documents.
        join: `documents` to put several short documents into one sequence.
        seq_len: Maximum number of tokens in a sequence, special tokens included.
    """

    cls_id: int | None
    sep_id: int | None
    join: Literal["none", "documents"]
    seq_len: int

    @property
    def max_row_tokens(self) -> int:
        """Maximum number of tokens in a row."""
        return self.seq_len if self.cls_id is None else self.seq_len - 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOptions:
    """The options that the bytes of the shards depend on.

    Attributes:
        valid_fraction: Fraction of the lines that goes to the validation set.
        seq_len: Maximum number of tokens in a sequence, special tokens included.
        special_tokens: Whether a sequence starts with `[CLS]` and ends with `[SEP]`.
        join: `documents` to put several short lines into one sequence.
        masking: The pre-masked copies to store, or None.
        dedup: Whether to drop lines that equal an earlier line, ignoring case.
        seed: Seed of the shuffle.
        shard_bytes: Approximate size of a shard.
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
            raise ValueError(
                f"--valid_fraction is {self.valid_fraction}, expected 0 or more and less than 1"
            )
        if not MIN_SEQ_LEN <= self.seq_len <= MAX_SEQ_LEN:
            raise ValueError(
                f"--seq_len is {self.seq_len}, expected {MIN_SEQ_LEN} to {MAX_SEQ_LEN}"
            )
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, expected 0 or more")

    def sequence_format(self, tokenizer: Tokenizer) -> SequenceFormat:
        """The format of the sequences with this tokenizer.

        Raises:
            ValueError: The tokenizer lacks a token that the options need.
        """
        for name, numbers in tokenizer.ambiguous_roles().items():
            raise ValueError(
                f"the tokenizer has {name!r} as tokens {' and '.join(map(str, numbers))}: give it one "
                "id in the tokenizer.json, that of the model's config.json, and rename the others"
            )
        ids = tokenizer.special_ids
        if self.special_tokens and not {"cls", "sep"} <= ids.keys():
            raise ValueError(
                "the tokenizer has no [CLS] and [SEP] tokens: use another tokenizer, or set "
                "--nospecial_tokens"
            )
        if self.join == "documents" and "sep" not in ids:
            raise ValueError(
                "the tokenizer has no [SEP] token to separate joined documents: use another "
                "tokenizer, or leave out --join"
            )
        return SequenceFormat(
            cls_id=ids["cls"] if self.special_tokens else None,
            sep_id=ids.get("sep"),
            join=self.join,
            seq_len=self.seq_len,
        )


def parse_masking(
    masking: Literal["none", "static"], copies: int, ratio: float, unit: str, seed: int
) -> StoredMasking | None:
    """The masking that the flags ask for, with the 80/10/10 rule of dynamic masking.

    Raises:
        ValueError: A number is out of range, or a flag has no effect.
    """
    flags: dict[str, tuple[object, object]] = {
        "copies": (copies, 1),
        "mask_ratio": (ratio, 0.15),
        "mask_unit": (unit, "token"),
        "mask_seed": (seed, 0),
    }
    given = [f"--{flag} {value}" for flag, (value, default) in flags.items() if value != default]
    if masking == "none" and given:
        raise ValueError(
            f"{', '.join(given)}: no effect without --masking static; add it, or set dynamic masking "
            "in the case file (bertds.masking)"
        )
    if masking == "none":
        return None
    if not 1 <= copies <= MAX_COPIES:
        raise ValueError(f"--copies is {copies}, expected 1 to {MAX_COPIES}")
    if not 0 < ratio < 1:
        raise ValueError(f"--mask_ratio is {ratio}, expected more than 0 and less than 1")
    return StoredMasking(
        seed=seed,
        ratio=ratio,
        mask_share=0.8,
        random_share=0.1,
        unit="word" if unit == "word" else "token",
        copies=copies,
        version=2 if unit == "word" else 1,
    )


def with_masking_of(options: ShardOptions, begun: Mapping[str, Any] | None) -> ShardOptions:
    """The options, with masking version 1 if an output was begun or finished with it.

    Args:
        options: Those of the flags, which do not choose the version.
        begun: The recipe of the output; None if there is none.
    """
    before = ((begun or {}).get("options") or {}).get("masking")
    if options.masking is None or not isinstance(before, dict) or "version" in before:
        return options
    return dataclasses.replace(options, masking=dataclasses.replace(options.masking, version=1))


def shard_recipe(
    tokenizer: Tokenizer,
    options: ShardOptions,
    sources: Sequence[Source],
    valid_sources: Sequence[Source] = (),
) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on: equal recipes give equal shards."""
    recipe_options = dataclasses.asdict(options)
    if options.masking is not None and options.masking.version == 1:
        del recipe_options["masking"]["version"]  # as it was before there was a second version
    recipe = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "options": recipe_options,
        "sources": [source.identity for source in sources],
    }
    if valid_sources:
        recipe["valid_sources"] = [source.identity for source in valid_sources]
    return recipe


def compute_set_key(
    tokenizer: Tokenizer, options: ShardOptions, split: Split, hash_sum: int
) -> int:
    """A 64-bit key of a set's content, independent of the order and the files of its lines."""
    content = (
        tokenizer.fingerprint,
        options.seq_len,
        options.special_tokens,
        options.join,
        options.seed,
        split,
        hash_sum,
    )
    return int.from_bytes(hashlib.sha256(json.dumps(content).encode()).digest()[:8], "big")
