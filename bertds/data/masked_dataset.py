"""A dataset subset whose blocks are read and masked."""

import numpy as np

from bertds.config.schema import MaskingConfig
from bertds.data.dataset import DatasetSubset, Ints
from bertds.data.masking import Masker, sequence_keys
from bertds.data.packing import MaskedSequences
from bertds.data.shards.format import Block


class MaskedDataset:
    """A part whose blocks come masked."""

    def __init__(self, part: DatasetSubset, masker: Masker, masking: MaskingConfig) -> None:
        """Prepare reading.

        Raises:
            ValueError: The set is pre-masked by another rule than the case's.
        """
        self.subset = part
        self.masker, self._seed = masker, masking.seed
        self._copies = None if masking.mode == "dynamic" else masking.copies
        self._set_key = int(part.shards.index.set_key, 16)
        self._stored = part.shards.index.masking is not None
        if self._stored:
            _check_stored(part, masking)

    def read(self, block: int, pass_number: int) -> MaskedSequences:
        """All sequences of a block, masked as in a pass over the set.

        Raises:
            ShardError: The block is damaged and nothing may stand in for it.
        """
        if not self.subset.skips_bad:
            return self._rows(block, self.subset.shards.read_block(block), pass_number)
        found, content = self.subset.shards.read_block_or_substitute(block, self.subset.num_blocks)
        rows = self._rows(found, content, pass_number)
        if found == block:
            return rows
        # As many as the order counts on, so that every process has as many steps as before.
        used = min(
            rows.lengths.size, self.subset.num_sequences - self.subset.shards.first_sequence(found)
        )
        return rows.pick(np.arange(self.subset.shards.block_sequences[block]) % used)

    def _rows(self, block: int, content: Block, pass_number: int) -> MaskedSequences:
        copy = pass_number if self._copies is None else pass_number % self._copies
        inputs, positions = self._masked(block, content, copy)
        return MaskedSequences.masked_at(
            positions, tokens=content.tokens, inputs=inputs, lengths=content.lengths
        )

    def _masked(self, number: int, block: Block, copy: int) -> tuple[Ints, Ints]:
        """A block's ids with masks applied, and where they are: stored ones, or made here."""
        if self._stored:
            return block.inputs[copy], block.positions[copy]
        ordinals = self.subset.shards.first_sequence(number) + np.arange(block.lengths.size)
        keys = sequence_keys(self._seed, self._set_key, copy, ordinals)
        return self.masker.mask(block.tokens, block.lengths, keys)


def _check_stored(part: DatasetSubset, masking: MaskingConfig) -> None:
    """Pre-masked shards serve only the case that would give the same masks online."""
    stored = part.shards.index.masking
    assert stored is not None
    names = ("seed", "ratio", "mask_share", "random_share", "unit", "copies")
    wanted = {name: getattr(masking, name) for name in names}
    found = {name: getattr(stored, name) for name in names}
    if masking.mode == "static" and wanted == found:
        return
    raise ValueError(
        f"{part.shards.files} is pre-masked with {found}, but the case's masking is "
        f"{masking.mode} with {wanted}: make them equal or use shards made with --masking none"
    )
