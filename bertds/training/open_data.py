"""Opens the data of a run, and checks that it is what the case expects."""

import logging
from pathlib import Path

from bertds.checkpoint.directory import list_checkpoints
from bertds.config.batch import BatchSplit
from bertds.config.case import Case
from bertds.data.data_root import DataRoot, warn_of_small_cache
from bertds.data.dataset import DatasetSubset, open_train
from bertds.data.packing import RankBatchSpec
from bertds.data.validation import open_valid
from bertds.data.vocabulary import Vocabulary
from bertds.distributed.world import World
from bertds.errors import ConfigError
from bertds.io.json_files import read_json
from bertds.model.attention import uses_varlen_attention
from bertds.training.branch import Branch, row_length_of

logger = logging.getLogger("bertds")


def open_data(
    case: Case, data_root: str | Path
) -> tuple[list[DatasetSubset], dict[str, DatasetSubset], Vocabulary]:
    """The training sets, the validation sets by name, and the vocabulary that all share."""
    root = DataRoot.of(data_root, case.bertds.data)
    train = open_train(case, root)
    valid = open_valid(case, root)
    subsets = [*train, *valid.values()]
    warn_of_small_cache(subset.shards for subset in subsets)
    vocabulary = Vocabulary.of(subsets)
    _check_data(case, subsets, vocabulary)
    return train, valid, vocabulary


def batch_spec(
    case: Case,
    split: BatchSplit,
    world: World,
    subsets: list[DatasetSubset],
    vocabulary: Vocabulary,
) -> RankBatchSpec:
    """This rank's part of a training batch, and its layout."""
    longest = max(subset.shards.index.max_length for subset in subsets)
    varlen = uses_varlen_attention(case.bertds.model, case.precision)
    return RankBatchSpec(
        rank=world.rank,
        world_size=world.world_size,
        micro_batch_size=split.micro_batch_size,
        # No longer than the longest sequence: attention costs less in shorter rows.
        row_length=0 if varlen else longest,
        pad_id=vocabulary.pad_id,
        unmaskable_ids=vocabulary.unmaskable_ids,
    )


def train_row_length(
    case: Case, run_dir: Path, branch: Branch | None, longest: int, train: list[DatasetSubset]
) -> int:
    """The longest row of a training batch: a validation set that is added later does not change it.

    Without a checkpoint the run starts anew, perhaps on other shards with longer sequences.
    """
    if case.stage:
        return min(longest, max(subset.shards.index.max_length for subset in train))
    if branch is not None:
        return min(branch.train_row_length, longest) or longest
    if not list_checkpoints(run_dir):
        return longest
    saved = row_length_of(read_json(run_dir / "case.json").get("resolved", {}))
    return min(saved, longest) or longest


def _check_data(case: Case, subsets: list[DatasetSubset], vocabulary: Vocabulary) -> None:
    """The vocabulary and the sequence lengths are those that the case expects."""
    vocab_size, seq_len = case.bertds.model.vocab_size, case.bertds.data.seq_len
    padded = case.bertds.model.padded_vocab_size(vocabulary.size)
    if vocab_size not in (None, vocabulary.size, padded):
        raise ConfigError(
            f"model.vocab_size is {vocab_size}, but the shards in {vocabulary.source} were made "
            f"with {vocabulary.size} ids: leave the key out, or point at other shards"
        )
    for subset in subsets:
        longest, cut_at = subset.shards.index.max_length, subset.shards.index.seq_len
        if longest == cut_at < seq_len:
            logger.warning(
                "data.seq_len is %d, but the lines in %s were cut into pieces of %d tokens: for "
                "longer sequences make shards with --seq_len %d",
                *(seq_len, subset.shards.files, cut_at, seq_len),
            )
        if longest > seq_len:
            raise ConfigError(
                f"data.seq_len is {seq_len}, but {subset.shards.files} holds a sequence of "
                f"{longest} tokens: raise it, or make shards with --seq_len {seq_len}"
            )
