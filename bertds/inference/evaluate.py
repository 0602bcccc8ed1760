"""A run's validation figures, afterwards.

`evaluate` gives a checkpoint of a run the very figures that training logged at its step: the packs
of each process that trained, cut the same way, weights rounded as DeepSpeed rounds them, sums added
process by process in 64 bits. On the machine and the number of threads that trained they are equal
to the bit, elsewhere to rounding.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bertds.config.batch import valid_micro_batch_size
from bertds.data.data_root import DataRoot
from bertds.data.dataset import DatasetSubset
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import PackedBatch, RankBatchSpec
from bertds.data.validation import masked_valid, open_valid, valid_packs
from bertds.data.vocabulary import Vocabulary
from bertds.errors import ConfigError
from bertds.metrics.accumulators import (
    AsyncSums,
    MetricSums,
    evaluate_packs,
    validation_metrics,
    zero_sums,
)
from bertds.model.attention import uses_varlen_attention
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.trained_run import TrainedRun

logger = logging.getLogger("bertds")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def evaluate(trained: TrainedRun, data_root: str | Path) -> dict[str, float]:
    """The validation figures of a checkpoint, under the tags of `metrics.jsonl`.

    Args:
        trained: The run and its checkpoint.
        data_root: Directory or URL that the names of shard sets are relative to.

    Raises:
        ValueError: The case has no validation set, or one is missing, damaged or of another
            vocabulary.
        RemoteError: One is behind a URL and cannot be reached.
    """
    parts = open_valid(trained.case, DataRoot.of(data_root, trained.case.bertds.data))
    if not parts:
        raise ConfigError(f"{trained.run_dir} has no validation set: data.valid names none")
    vocabulary = Vocabulary.of(list(parts.values()))
    _check_sets(trained, parts, vocabulary)
    share = _share(trained, parts, vocabulary)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = trained.model().to(device, _DTYPES[trained.precision])
    return validation_metrics(
        {
            name: _sums(model, masked_valid(trained.case, part, vocabulary), share, device)
            for name, part in parts.items()
        }
    )


def _sums(
    model: MaskedLanguageModel, one: MaskedDataset, share: RankBatchSpec, device: torch.device
) -> MetricSums:
    """Of a whole set: what each process of the training would have added, one after the other."""
    values = zero_sums(device)
    with tqdm(total=one.subset.num_sequences, unit="sequence", disable=None) as bar:
        for rank in range(share.world_size):
            packs = valid_packs(one, replace(share, rank=rank))
            values += evaluate_packs(model, _counted(packs, bar), device)
    return AsyncSums(values).sums()


def _counted(packs: Iterator[PackedBatch], bar: "tqdm[Any]") -> Iterator[PackedBatch]:
    for one in packs:
        yield one
        bar.update(np.unique(one.segments[one.masked]).size)


def _check_sets(
    trained: TrainedRun, parts: Mapping[str, DatasetSubset], vocabulary: Vocabulary
) -> None:
    if vocabulary.fingerprint != trained.tokenizer.fingerprint:
        raise ConfigError(
            f"{vocabulary.place} was made with another tokenizer than the run's "
            f"{trained.run_dir / 'tokenizer.json'}: point --data at shards of that one"
        )
    for name, part in parts.items():
        then = trained.metadata["valid"][name]
        if (part.shards.index.set_key, part.num_sequences) != (then["set_key"], then["sequences"]):
            logger.warning(
                "%s holds other sequences than the run was validated on", part.shards.files
            )


def _share(
    trained: TrainedRun, parts: Mapping[str, DatasetSubset], vocabulary: Vocabulary
) -> RankBatchSpec:
    """How training divided its validation sets, first process."""
    facts, case = trained.metadata, trained.case
    longest = max(part.shards.index.max_length for part in parts.values())
    # A run that the varlen kernel computed had no rows.
    row_length = max(facts["valid_row_length"], longest)
    return RankBatchSpec(
        rank=0,
        world_size=trained.world_size,
        micro_batch_size=valid_micro_batch_size(case, trained.world_size),
        row_length=0 if uses_varlen_attention(case.bertds.model, trained.precision) else row_length,
        pad_id=vocabulary.pad_id,
    )
