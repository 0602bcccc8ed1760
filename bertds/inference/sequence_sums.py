"""The validation of a checkpoint sequence by sequence, for paired comparisons of runs.

Two runs that were validated on the same text and the same masks can be compared on each sequence.
This removes the differences between easy and hard sequences, so smaller effects can be seen.

The file is NumPy's compressed format, with one array `<set>/<field>` for each field of
`SequenceSums`. It takes about 12 bytes a sequence.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import MaskedSequences
from bertds.data.tokenizer import Tokenizer
from bertds.data.validation import valid_micro_batches
from bertds.inference.evaluate import Evaluation
from bertds.io.atomic import atomic_write
from bertds.model.batch import to_device


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceSums:
    """Sums over the masked tokens of each of S sequences, in the order of the set."""

    nats: npt.NDArray[np.float32]
    """(S,) cross-entropy."""
    correct: npt.NDArray[np.uint16]
    """(S,) masked tokens predicted correctly."""
    masked: npt.NDArray[np.uint16]
    """(S,) masked tokens."""
    maskable: npt.NDArray[np.uint16]
    """(S,) tokens that the masked ones were chosen from."""
    characters: npt.NDArray[np.uint32]
    """(S,) characters of the text."""
    text: npt.NDArray[np.uint64]
    """(S,) hash of the text: equal texts have equal hashes, whatever the vocabulary is."""

    @classmethod
    def concatenate(cls, parts: "list[SequenceSums]") -> Self:
        """Join the sums of several batches."""
        names = [each.name for each in fields(cls)]
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )


@torch.no_grad()
def sequence_sums(evaluation: Evaluation, tokenizer: Tokenizer) -> dict[str, SequenceSums]:
    """The sums of each sequence of every validation set, by the name of the set."""
    return {
        name: SequenceSums.concatenate(_of_dataset(evaluation, dataset, tokenizer))
        for name, dataset in evaluation.sets.items()
    }


def write_sequence_sums(path: Path, sums: Mapping[str, SequenceSums]) -> None:
    """Write the sums of all sets to one file.

    Raises:
        OSError: The file cannot be written.
    """
    arrays = {
        f"{name}/{each.name}": getattr(of_set, each.name)
        for name, of_set in sums.items()
        for each in fields(of_set)
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_sequence_sums(path: Path) -> dict[str, SequenceSums]:
    """Read what `write_sequence_sums` wrote.

    Raises:
        ValueError: The file is none of these.
    """
    by_set: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays:
                name, _, field = key.rpartition("/")
                by_set.setdefault(name, {})[field] = arrays[key]
        return {name: SequenceSums(**values) for name, values in by_set.items()}  # type: ignore[arg-type]
    except (ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} does not have the sums of sequences: {error}") from error


def _of_dataset(
    evaluation: Evaluation, dataset: MaskedDataset, tokenizer: Tokenizer
) -> list[SequenceSums]:
    """The sums of each batch of each training rank: together they are the whole set, in its order."""
    return [
        _of_batch(evaluation, sequences, tokenizer)
        for rank in range(evaluation.spec.world_size)
        for sequences in valid_micro_batches(dataset, replace(evaluation.spec, rank=rank))
    ]


def _of_batch(
    evaluation: Evaluation, sequences: MaskedSequences, tokenizer: Tokenizer
) -> SequenceSums:
    batch = to_device(evaluation.device, evaluation.spec.pack(sequences))
    logits = evaluation.model.logits(batch)
    nats = F.cross_entropy(logits.double(), batch.labels_M, reduction="none").cpu().numpy()
    is_correct = (logits.argmax(-1) == batch.labels_M).cpu().numpy()
    size = sequences.lengths.size
    of_token = np.repeat(np.arange(size), sequences.lengths)
    of_place = of_token[sequences.is_masked]  # a packed batch keeps this order of the places
    is_maskable = ~np.isin(sequences.tokens, evaluation.spec.unmaskable_ids)
    texts = [
        tokenizer.decode(sequences.tokens[start:stop][is_maskable[start:stop]].tolist())
        for start, stop in zip(sequences.ends[:-1], sequences.ends[1:], strict=True)
    ]
    return SequenceSums(
        nats=np.bincount(of_place, nats, minlength=size).astype(np.float32),
        correct=np.bincount(of_place, is_correct, minlength=size).astype(np.uint16),
        masked=np.bincount(of_place, minlength=size).astype(np.uint16),
        maskable=np.bincount(of_token, is_maskable, minlength=size).astype(np.uint16),
        characters=np.array([len(text) for text in texts], dtype=np.uint32),
        text=np.array([_hash(text) for text in texts], dtype=np.uint64),
    )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
