"""Computes the validation metrics of a run's checkpoint after training.

They equal the metrics that training logged at the checkpoint's step: bit-exact on the same machine
with the same number of threads, and up to rounding elsewhere. For this, the packed batches of each
training rank are formed again, weights are rounded as DeepSpeed rounds them, and sums are added
rank by rank in float64.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bertds.config.batch import valid_micro_batch_size
from bertds.config.schema import MaskingConfig
from bertds.data.data_root import DataRoot
from bertds.data.dataset import DatasetSubset, check_longest
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import PackedBatch, RankBatchSpec
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.tokenizer import Tokenizer
from bertds.data.validation import (
    characters_per_token,
    masked_valid,
    open_valid,
    valid_packs,
)
from bertds.data.vocabulary import Vocabulary
from bertds.distributed.malloc import keep_freed_memory
from bertds.errors import ConfigError
from bertds.inference.hf_model import read_hf_model
from bertds.metrics.accumulators import (
    NUM_VALIDATION_SUMS,
    AsyncSums,
    ValidationSums,
    evaluate_packs,
    validation_metrics,
    zero_sums,
)
from bertds.metrics.device import allow_tf32
from bertds.model.attention import uses_varlen_attention
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.trained_run import TrainedRun

logger = logging.getLogger("bertds")

_MODEL_MICRO_BATCH = 64
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The model of a checkpoint, and the validation sets of its run."""

    model: MaskedLanguageModel
    sets: Mapping[str, MaskedDataset]
    tokenizer: Tokenizer
    """That of the sets."""
    spec: RankBatchSpec
    """The part of a set that training's rank 0 computed, and its layout."""
    mask_id: int
    device: torch.device

    def metrics(self) -> dict[str, float]:
        """The validation metrics under the tags of `metrics.jsonl`."""
        sums = {name: self._evaluate(dataset) for name, dataset in self.sets.items()}
        return validation_metrics(sums, characters_per_token(self.sets))

    def _evaluate(self, dataset: MaskedDataset) -> ValidationSums:
        """Add up what every training rank would have computed, rank by rank."""
        values = zero_sums(self.device, NUM_VALIDATION_SUMS)
        with tqdm(total=dataset.subset.num_sequences, unit="sequence", disable=None) as bar:
            for rank in range(self.spec.world_size):
                packs = _with_progress(valid_packs(dataset, replace(self.spec, rank=rank)), bar)
                values += evaluate_packs(self.model, packs, self.device, self.mask_id)
        return AsyncSums(values).validation_sums()


def open_evaluation(trained: TrainedRun, data_root: str | Path, valid: str = "") -> Evaluation:
    """Read the model and the validation sets of a run.

    Args:
        trained: The run and its checkpoint.
        data_root: Directory or URL that the names of shard sets are relative to.
        valid: A shard set to validate on instead of the run's own sets.

    Raises:
        ValueError: The case has no validation set, or a set is missing, damaged, has another
            vocabulary, or longer sequences than the model accepts.
        RemoteError: A set's URL cannot be read.
    """
    root = DataRoot.of(data_root, trained.case.bertds.data)
    if valid:
        subsets = {valid: DatasetSubset.open(root, valid, 1.0)}
    else:
        subsets = open_valid(trained.case, root)
    if not subsets:
        raise ConfigError(
            f"{trained.run_dir} has no validation set, since data.valid is empty: name a shard set "
            "with --valid"
        )
    vocabulary = Vocabulary.of(list(subsets.values()))
    _check_data(trained, subsets, vocabulary)
    for subset in subsets.values():
        check_longest(
            subset.shards, trained.case.bertds.model.max_position_embeddings, trained.run_dir
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and trained.case.bertds.run.keep_freed_memory:
        keep_freed_memory()
    allow_tf32(device, allowed=trained.case.bertds.run.tf32)
    return Evaluation(
        model=trained.model().to(device, _DTYPES[trained.precision]),
        sets={
            name: masked_valid(trained.case.bertds.masking, subset, vocabulary)
            for name, subset in subsets.items()
        },
        tokenizer=trained.tokenizer,
        spec=_batch_spec(trained, subsets, vocabulary),
        mask_id=vocabulary.mask_id,
        device=device,
    )


def open_model_evaluation(
    directory: Path, data_root: str | Path, valid: str, masking: MaskingConfig | None = None
) -> Evaluation:
    """Read a Hugging Face directory, and a shard set to validate it on in fp32.

    Args:
        directory: A Hugging Face directory of a class that `run.init_from` accepts.
        data_root: Directory or URL that the names of shard sets are relative to.
        valid: The shard set.
        masking: How it is masked. Default: as in a case that `init` writes to continue the model.

    Raises:
        ValueError: The model is of no supported class, or the set is missing, damaged, or has another
            vocabulary.
        RemoteError: The set's URL cannot be read.
    """
    subset = DatasetSubset.open(DataRoot.of(data_root), valid, 1.0)
    vocabulary = Vocabulary.of([subset])
    tokenizer = Tokenizer.load(vocabulary.directory / TOKENIZER_NAME)
    model = read_hf_model(directory, tokenizer)
    check_longest(subset.shards, model.config.max_position_embeddings, directory)
    masking = masking or MaskingConfig(ratio=model.config.traits.masking_ratio)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return Evaluation(
        model=model.to(device),
        sets={valid: masked_valid(masking, subset, vocabulary)},
        tokenizer=tokenizer,
        spec=RankBatchSpec(
            rank=0,
            world_size=1,
            micro_batch_size=_MODEL_MICRO_BATCH,
            row_length=subset.shards.index.max_length,
            pad_id=vocabulary.pad_id,
            unmaskable_ids=vocabulary.unmaskable_ids,
        ),
        mask_id=vocabulary.mask_id,
        device=device,
    )


def evaluate(trained: TrainedRun, data_root: str | Path) -> dict[str, float]:
    """Compute the validation metrics of a checkpoint; arguments and errors as above."""
    return open_evaluation(trained, data_root).metrics()


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
        before = trained.metadata["valid"].get(name)
        identity = (subset.shards.index.set_key, subset.num_sequences)
        if before and identity != (before["set_key"], before["sequences"]):
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


def _with_progress(packs: Iterator[PackedBatch], bar: "tqdm[Any]") -> Iterator[PackedBatch]:
    for pack in packs:
        yield pack
        bar.update(np.unique(pack.segments[pack.masked]).size)
