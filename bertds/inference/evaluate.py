"""Computes the validation metrics of a run's checkpoint after training.

They equal the metrics that training logged at the checkpoint's step: bit-exact on the same machine
with the same number of threads, and up to rounding elsewhere. For this, the packed batches of each
training rank are formed again, weights are rounded as DeepSpeed rounds them, and sums are added
rank by rank in float64.
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
    """Compute the validation metrics of a checkpoint, under the tags of `metrics.jsonl`.

    Args:
        trained: The run and its checkpoint.
        data_root: Directory or URL that the names of shard sets are relative to.

    Raises:
        ValueError: The case has no validation set, or a set is missing, damaged, or has another
            vocabulary.
        RemoteError: A set's URL cannot be read.
    """
    subsets = open_valid(trained.case, DataRoot.of(data_root, trained.case.bertds.data))
    if not subsets:
        raise ConfigError(f"{trained.run_dir} has no validation set: data.valid is empty")
    vocabulary = Vocabulary.of(list(subsets.values()))
    _check_data(trained, subsets, vocabulary)
    spec = _batch_spec(trained, subsets, vocabulary)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = trained.model().to(device, _DTYPES[trained.precision])
    sums = {
        name: _evaluate_dataset(model, masked_valid(trained.case, subset, vocabulary), spec, device)
        for name, subset in subsets.items()
    }
    return validation_metrics(sums)


def _check_data(
    trained: TrainedRun, subsets: Mapping[str, DatasetSubset], vocabulary: Vocabulary
) -> None:
    """Reject shards of another tokenizer, and warn of other sequences."""
    if vocabulary.fingerprint != trained.tokenizer.fingerprint:
        raise ConfigError(
            f"{vocabulary.source} was created with another tokenizer than "
            f"{trained.run_dir / 'tokenizer.json'}: point --data at shards of the run's tokenizer"
        )
    for name, subset in subsets.items():
        before = trained.metadata["valid"][name]
        identity = (subset.shards.index.set_key, subset.num_sequences)
        if identity != (before["set_key"], before["sequences"]):
            logger.warning(
                "%s holds other sequences than those the run was validated on",
                subset.shards.files,
            )


def _batch_spec(
    trained: TrainedRun, subsets: Mapping[str, DatasetSubset], vocabulary: Vocabulary
) -> RankBatchSpec:
    """The part of a validation set that training's rank 0 computed, and its layout."""
    config = trained.case.bertds.model
    # `valid_row_length` is 0 if the run used varlen attention, which has no rows.
    longest = max(subset.shards.index.max_length for subset in subsets.values())
    row_length = max(trained.metadata["valid_row_length"], longest)
    return RankBatchSpec(
        rank=0,
        world_size=trained.world_size,
        micro_batch_size=valid_micro_batch_size(trained.case, trained.world_size),
        row_length=0 if uses_varlen_attention(config, trained.precision) else row_length,
        pad_id=vocabulary.pad_id,
        unmaskable_ids=vocabulary.unmaskable_ids,
    )


def _evaluate_dataset(
    model: MaskedLanguageModel, dataset: MaskedDataset, spec: RankBatchSpec, device: torch.device
) -> MetricSums:
    """Add up what every training rank would have computed, rank by rank."""
    values = zero_sums(device)
    with tqdm(total=dataset.subset.num_sequences, unit="sequence", disable=None) as bar:
        for rank in range(spec.world_size):
            packs = valid_packs(dataset, replace(spec, rank=rank))
            values += evaluate_packs(model, _with_progress(packs, bar), device)
    return AsyncSums(values).sums()


def _with_progress(packs: Iterator[PackedBatch], bar: "tqdm[Any]") -> Iterator[PackedBatch]:
    for pack in packs:
        yield pack
        bar.update(np.unique(pack.segments[pack.masked]).size)
