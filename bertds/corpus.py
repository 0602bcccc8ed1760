"""What a plan needs to know of a case's data: from the indexes of its shards, or as stated."""

import math
from dataclasses import dataclass
from pathlib import Path

from bertds.case.file import Case, CaseError
from bertds.data.shards import ShardSet

_BYTES_PER_TOKEN = 2.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What of the data the plan needs."""

    sequences: int
    """Of one epoch."""
    mean_length: float
    """Tokens."""
    vocab_size: int
    bytes_per_token: float
    """On disk."""
    source: str
    """Where the figures come from."""


def corpus_of(
    case: Case,
    root: Path,
    *,
    sequences: int | None,
    mean_length: float | None,
    vocab_size: int | None,
) -> Corpus:
    """The case's data, from the indexes of its shards or as stated.

    Args:
        case: The case.
        root: What the names of its sets are relative to.
        sequences: Of one epoch, where the shards are not there.
        mean_length: Tokens; the longest sequence's if not stated.
        vocab_size: Needed where the shards are not there.

    Raises:
        CaseError: There are no shards, and the numbers are not stated.
    """
    data = case.bertds.data
    directories = [root / one.name for one in data.train]
    if all((directory / "index.json").is_file() for directory in directories):
        return _corpus_of_shards(case, directories)
    vocab_size = vocab_size or case.bertds.model.vocab_size
    if vocab_size is None:
        raise CaseError(
            f"{directories[0]} has no shards yet and nothing says how large the vocabulary is: "
            "point --data at the shards, or state --vocab_size (and --sequences, --mean_length)"
        )
    if sequences is None and case.bertds.run.max_steps is None:
        raise CaseError(
            f"{directories[0]} has no shards yet and the run's length is in epochs: point --data "
            "at the shards, or state --sequences"
        )
    return Corpus(
        sequences=sequences or case.train_batch_size,
        mean_length=mean_length or float(data.seq_len),
        vocab_size=vocab_size,
        bytes_per_token=_BYTES_PER_TOKEN,
        source="as stated, no shards were read",
    )


def _corpus_of_shards(case: Case, directories: list[Path]) -> Corpus:
    indexes = [ShardSet.open(directory).index for directory in directories]
    parts = list(zip(case.bertds.data.train, indexes, strict=True))
    sequences = sum(math.floor(p.fraction * i.sequences) * p.weight for p, i in parts)
    tokens = sum(p.fraction * i.tokens * p.weight for p, i in parts)
    stored = sum(i.bytes_per_token * i.tokens for i in indexes)
    return Corpus(
        sequences=sequences,
        mean_length=tokens / sequences,
        vocab_size=indexes[0].vocab_size,
        bytes_per_token=stored / sum(i.tokens for i in indexes),
        source=", ".join(map(str, directories)),
    )
