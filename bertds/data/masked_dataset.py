"""A dataset whose blocks are read and masked."""

import numpy as np

from bertds.config.schema import MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.masking import Masker, sequence_keys
from bertds.data.packing import Ints, MaskedSequences
from bertds.data.shards.format import Block


class MaskedDataset:
    """A dataset subset with masks: new ones in each epoch over it, or a few static copies."""

    def __init__(self, subset: DatasetSubset, masker: Masker, masking: MaskingConfig) -> None:
        """Prepare reading.

        Raises:
            ValueError: The shards are pre-masked by another rule than the case's.
        """
        self.subset = subset
        self.masker, self._seed = masker, masking.seed
        self._copies = None if masking.mode == "dynamic" else masking.copies
        self._set_key = int(subset.set_key, 16)
        self._is_premasked = subset.shards.index.masking is not None
        if self._is_premasked:
            _check_premasked(subset, masking)

    def read(self, block: int, dataset_epoch: int) -> MaskedSequences:
        """Read and mask all sequences of a block.

        Args:
            block: Number of the block.
            dataset_epoch: Epoch over the dataset, from 0: it selects the masks.

        Raises:
            ShardError: The block is damaged, and no other block may replace it.
        """
        found, content = self.subset.read_block(block)
        sequences = self._mask(found, content, dataset_epoch)
        if found == block:
            return sequences
        # A substitute yields the number of sequences that the sampler expects, repeated if it has
        # fewer, so that the number of steps does not change.
        shards = self.subset.shards
        usable = min(
            sequences.lengths.size, self.subset.num_sequences - shards.first_sequence(found)
        )
        return sequences.pick(np.arange(shards.block_sequences[block]) % usable)

    def _mask(self, number: int, block: Block, dataset_epoch: int) -> MaskedSequences:
        inputs: Ints
        positions: Ints
        copy = dataset_epoch if self._copies is None else dataset_epoch % self._copies
        if self._is_premasked:
            inputs, positions = block.inputs[copy], block.positions[copy]
        else:
            first = self.subset.shards.first_sequence(number)
            indices = first + np.arange(block.lengths.size)
            keys = sequence_keys(self._seed, self._set_key, copy, indices)
            inputs, positions = self.masker.mask(block.tokens, block.lengths, keys)
        return MaskedSequences.masked_at(
            positions, tokens=block.tokens, inputs=inputs, lengths=block.lengths
        )


def _check_premasked(subset: DatasetSubset, masking: MaskingConfig) -> None:
    """Check that pre-masked shards hold the masks that the case would draw itself."""
    stored = subset.shards.index.masking
    assert stored is not None
    names = ["seed", "ratio", "mask_share", "random_share", "unit", "copies"]
    if masking.unit == "word":  # the versions differ in words only
        names.append("version")
    expected = {name: getattr(masking, name) for name in names}
    found = {name: getattr(stored, name) for name in names}
    if masking.mode != "static" or expected != found:
        raise ValueError(
            f"{subset.shards.files} is pre-masked with {found}, but the case's masking is "
            f"{masking.mode} with {expected}: make them equal, or use shards made with "
            "--masking none"
        )
