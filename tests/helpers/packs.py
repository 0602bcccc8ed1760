"""Loaders over small shard sets, and the sequences that packed batches hold, without their layout."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertds.config.batch_plan import Level
from bertds.config.schema import DataConfig, MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import PackedBatch, RankBatchSpec
from bertds.data.vocabulary import Vocabulary

BATCH = 24
SETS: tuple[dict[str, Any], ...] = ({"name": "ko"}, {"name": "en", "fraction": 0.7})
"""Training sets of the fixture `data_root`; the keys are those of the case file."""


class Packed(NamedTuple):
    """One sequence of a packed batch."""

    tokens: tuple[int, ...]
    inputs: tuple[int, ...]
    masked: tuple[int, ...]
    """Positions of the tokens to predict."""


def sequences_of(pack: PackedBatch, pad_id: int) -> list[Packed]:
    """List the sequences of a packed batch in the order of its tokens, and check its layout."""
    size = pack.inputs.size
    assert pack.cumulative[0] == 0
    assert pack.cumulative[-1] == size == pack.positions.size == pack.segments.size
    assert (np.diff(pack.masked) != 0).all()
    labels = dict(zip(pack.masked.tolist(), pack.labels.tolist(), strict=True))
    row_lengths = [length for count, length in pack.rows for _ in range(count)]
    row_of = np.repeat(np.arange(len(row_lengths)), row_lengths)
    assert row_of.size == (size if pack.rows else 0)
    sequences = []
    for number, (start, stop) in enumerate(itertools.pairwise(pack.cumulative.tolist())):
        assert 0 < stop - start <= pack.max_length
        assert (pack.segments[start:stop] == number).all()
        if pack.rows:
            assert row_of[start] == row_of[stop - 1]
        inputs = pack.inputs[start:stop].tolist()
        if set(inputs) == {pad_id}:
            assert not set(labels) & set(range(start, stop))
            assert (pack.positions[start:stop] == 0).all()
            continue
        assert np.array_equal(pack.positions[start:stop], np.arange(stop - start))
        masked = tuple(place - start for place in range(start, stop) if place in labels)
        tokens = [labels.get(start + place, token) for place, token in enumerate(inputs)]
        sequences.append(Packed(tuple(tokens), tuple(inputs), masked))
    assert sum(len(each.tokens) for each in sequences) == pack.num_tokens
    assert sum(len(each.masked) for each in sequences) == pack.masked.size == pack.labels.size
    return sequences


def content(packs: Iterable[PackedBatch]) -> Counter[Packed]:
    """Count the sequences of packed batches, by tokens and masks."""
    return Counter(sequence for pack in packs for sequence in sequences_of(pack, 0))


def masked_datasets(
    root: Path,
    sets: Iterable[dict[str, Any]] = SETS,
    masking: MaskingConfig | None = None,
    *,
    skips_bad: bool = False,
) -> list[MaskedDataset]:
    """Open training sets with their masks."""
    masking = masking or MaskingConfig()
    subsets = [
        DatasetSubset.open(
            root,
            block["name"],
            block.get("fraction", 1.0),
            block.get("weight", 1),
            skips_bad=skips_bad,
        )
        for block in sets
    ]
    masker = Vocabulary.of(subsets).masker(masking)
    return [MaskedDataset(subset, masker, masking) for subset in subsets]


def loader_of(
    root: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    accumulation: int = 1,
    sets: Iterable[dict[str, Any]] = SETS,
    batch_size: int = BATCH,
    seed: int = 3,
    row_length: int = 64,
    skips_bad: bool = False,
    warmup: Sequence[Level] = (),
    **data: int,
) -> TrainLoader:
    """Build the loader of one rank; `data` is `lanes` and `window`."""
    spec = RankBatchSpec(
        rank=rank,
        world_size=world_size,
        micro_batch_size=batch_size // world_size // accumulation,
        row_length=row_length,
        pad_id=0,
    )
    config = DataConfig.model_validate({"train": list(sets), "seq_len": 64, **data})
    datasets = masked_datasets(root, sets, skips_bad=skips_bad)
    return TrainLoader(datasets, config, spec, batch_size=batch_size, seed=seed, warmup=warmup)


def all_tokens(root: Path, sets: Iterable[dict[str, Any]] = SETS) -> Counter[tuple[int, ...]]:
    """Count the tokens of every sequence in use, weighted as in an epoch."""
    counts: Counter[tuple[int, ...]] = Counter()
    for dataset in masked_datasets(root, sets):
        subset = dataset.subset
        blocks = [dataset.read(block, 0) for block in range(subset.num_blocks)]
        rows = [tuple(row.tolist()) for b in blocks for row in np.split(b.tokens, b.ends[1:-1])]
        for row in rows[: subset.num_sequences]:
            counts[row] += subset.weight
    return counts


def flat(lists: Iterable[Iterable[Any]]) -> list[Any]:
    """Concatenate lists."""
    return list(itertools.chain.from_iterable(lists))
