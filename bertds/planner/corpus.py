"""The data of a case as resource estimates need it: from the shard indexes, or as stated."""

from collections.abc import Mapping
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
    """The size of a case's training data."""

    sequences: int
    """Per epoch."""
    mean_length: float
    """Tokens per sequence."""
    vocab_size: int
    bytes_per_token: float
    """In the shard files."""
    source: str
    """Where the numbers come from."""


def corpus_of(
    case: Case,
    data_root: str | Path,
    *,
    sequences: int | None,
    mean_length: float | None,
    vocab_size: int | None,
) -> Corpus:
    """Read the size of the training data from the shard indexes, if all of them exist.

    Args:
        case: The case.
        data_root: Directory or URL that the names of the data sets are relative to.
        sequences: Sequences per epoch, without shards.
        mean_length: Tokens per sequence, without shards; `data.seq_len` by default.
        vocab_size: Size of the vocabulary, without shards.

    Raises:
        ConfigError: The shards do not exist, and a number that is needed is not stated.
        ValueError: A data set is damaged, or its fraction leaves no sequence.
        RemoteError: A data set is behind a URL and cannot be reached.
    """
    for flag, value in (("sequences", sequences), ("mean_length", mean_length)):
        if value is not None and value < 1:
            raise ConfigError(f"--{flag} is {value}, expected at least 1")
    data, run = case.bertds.data, case.bertds.run
    root = DataRoot.of(data_root, data)
    paths = [root.where(part.name) for part in data.train]
    if all(is_url(path) or Path(path, "index.json").is_file() for path in paths):
        parts = open_train(case, root)
        indexes = [part.shards.index for part in parts]
        stored_bytes = sum(index.bytes_per_token * index.tokens for index in indexes)
        corpus = Corpus(
            sequences=sum(part.num_sequences * part.weight for part in parts),
            mean_length=mean_length_of(parts),
            vocab_size=indexes[0].vocab_size,
            bytes_per_token=stored_bytes / sum(index.tokens for index in indexes),
            source=", ".join(str(part.shards.files) for part in parts),
        )
        stated = {"--sequences": sequences, "--mean_length": mean_length}
        _check_stated(corpus, {**stated, "--vocab_size": vocab_size})
        model = case.bertds.model
        if model.vocab_size != model.padded_vocab_size(corpus.vocab_size):  # either may be stated
            _check_stated(corpus, {"model.vocab_size": model.vocab_size})
        return corpus
    in_case = case.bertds.model.vocab_size
    if vocab_size is not None and in_case not in (None, vocab_size):
        raise ConfigError(
            f"--vocab_size is {vocab_size}, but model.vocab_size is {in_case}: leave one of them out"
        )
    vocab_size = vocab_size or in_case
    if vocab_size is None:
        raise ConfigError(
            f"{paths[0]} has no shards, and the size of the vocabulary is unknown: point --data at "
            "the shards, or pass --vocab_size (and --sequences, --mean_length)"
        )
    if sequences is None and (run.max_steps is None or run.num_epochs is not None):
        raise ConfigError(
            f"{paths[0]} has no shards, and the length of the run is given in epochs: point --data "
            "at the shards, or pass --sequences"
        )
    return Corpus(
        sequences=sequences or case.train_batch_size,
        mean_length=mean_length or float(data.seq_len),
        vocab_size=vocab_size,
        bytes_per_token=_BYTES_PER_TOKEN,
        source="as stated; no shards were read",
    )


def _check_stated(corpus: Corpus, stated: Mapping[str, float | None]) -> None:
    """Reject a number that differs from that of the shards, which would be used."""
    for key, value in stated.items():
        found = getattr(corpus, key.rpartition(".")[2].removeprefix("--"))
        if value is not None and value != found:
            raise ConfigError(
                f"{key} is {value}, but the shards in {corpus.source} have {found}: leave it out, "
                "or point --data elsewhere"
            )
