"""What a plan needs to know of a case's data: from the indexes of its shards, or as stated."""

from dataclasses import dataclass
from pathlib import Path

from bertds.config.case import Case
from bertds.data.data_root import DataRoot
from bertds.data.dataset import mean_length_of, open_train
from bertds.errors import ConfigError
from bertds.io.remote import is_url

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
    data_root: str | Path,
    *,
    sequences: int | None,
    mean_length: float | None,
    vocab_size: int | None,
) -> Corpus:
    """The case's data, from the indexes of its shards or as stated.

    Args:
        case: The case.
        data_root: Directory or URL that the names of its sets are relative to.
        sequences: Of one epoch, where the shards are not there.
        mean_length: Tokens; the longest sequence's if not stated.
        vocab_size: Needed where the shards are not there.

    Raises:
        ConfigError: There are no shards, and the numbers are not stated.
        ValueError: A shard set is damaged, or its fraction leaves no sequence.
        RemoteError: They are behind a URL and cannot be reached.
    """
    for flag, value in (("sequences", sequences), ("mean_length", mean_length)):
        if value is not None and value < 1:
            raise ConfigError(f"--{flag} is {value}, wanted is at least 1")
    data = case.bertds.data
    root = DataRoot.of(data_root, data)
    places = [root.where(one.name) for one in data.train]
    if all(is_url(place) or Path(place, "index.json").is_file() for place in places):
        return _corpus_of_shards(case, root)
    vocab_size = vocab_size or case.bertds.model.vocab_size
    if vocab_size is None:
        raise ConfigError(
            f"{places[0]} has no shards yet and nothing says how large the vocabulary is: "
            "point --data at the shards, or state --vocab_size (and --sequences, --mean_length)"
        )
    run = case.bertds.run
    if sequences is None and (run.max_steps is None or run.num_epochs is not None):
        raise ConfigError(
            f"{places[0]} has no shards yet and the run's length is in epochs: point --data "
            "at the shards, or state --sequences"
        )
    return Corpus(
        sequences=sequences or case.train_batch_size,
        mean_length=mean_length or float(data.seq_len),
        vocab_size=vocab_size,
        bytes_per_token=_BYTES_PER_TOKEN,
        source="as stated, no shards were read",
    )


def _corpus_of_shards(case: Case, root: DataRoot) -> Corpus:
    parts = open_train(case, root)
    indexes = [part.shards.index for part in parts]
    stored = sum(index.bytes_per_token * index.tokens for index in indexes)
    return Corpus(
        sequences=sum(part.num_sequences * part.weight for part in parts),
        mean_length=mean_length_of(parts),
        vocab_size=indexes[0].vocab_size,
        bytes_per_token=stored / sum(index.tokens for index in indexes),
        source=", ".join(str(part.shards.files) for part in parts),
    )
