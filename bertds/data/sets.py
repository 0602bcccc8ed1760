"""The shard sets of a case: which sequences are used, and their blocks read and masked."""

import bisect
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertds.case.config import MaskingConfig
from bertds.case.file import Case
from bertds.data.masking import Masker, MaskRule, sequence_keys
from bertds.data.places import Root
from bertds.data.shard_format import TOKENIZER_NAME, Block, ShardError
from bertds.data.shards import ShardSet, has_own_tokenizer
from bertds.data.tokenizer import Tokenizer

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """The first sequences of an opened shard set, as a case names them."""

    name: str
    shards: ShardSet
    num_sequences: int
    """Sequences that are used: the first ones."""
    weight: int = 1
    """Passes over the part in one epoch."""
    skips_bad: bool = False
    """Whether other sequences stand in for those of a damaged block."""

    @classmethod
    def open(
        cls,
        root: Root | Path,
        name: str,
        fraction: float,
        weight: int = 1,
        *,
        skips_bad: bool = False,
    ) -> "Part":
        """The first floor(fraction * N) sequences of a set.

        Raises:
            ValueError: The set is not there or damaged, or the fraction leaves no sequence.
            RemoteError: It is behind a URL and cannot be reached.
        """
        files = root / name if isinstance(root, Path) else root.files(name)
        shards = ShardSet.open(files, skips_bad=skips_bad)
        # Through the decimal text, since floor(0.29 * 100) is 28 in binary.
        limit = int(Fraction(str(fraction)) * shards.num_sequences)
        if limit == 0:
            raise ValueError(
                f"fraction {fraction} of the {shards.num_sequences} sequences of {shards.files} "
                "is none: raise it"
            )
        return cls(name, shards, limit, weight, skips_bad)

    @property
    def mean_length(self) -> float:
        """Tokens a sequence."""
        return self.shards.index.tokens / self.shards.index.sequences

    def block_of(self, sequence: int) -> int:
        """The block that holds a sequence of the set."""
        blocks = range(self.shards.num_blocks)
        return bisect.bisect_right(blocks, sequence, key=self.shards.first_sequence) - 1

    @property
    def num_blocks(self) -> int:
        """Blocks that are used, the last one perhaps in part."""
        return self.block_of(self.num_sequences - 1) + 1

    def block_sequences(self) -> list[npt.NDArray[np.integer]]:
        """Sequences used of each block that is used, in two arrays: all but the last, the last."""
        last = self.num_blocks - 1
        rest = self.num_sequences - self.shards.first_sequence(last)
        return [self.shards.block_sequences[:last], np.array([rest])]


def open_train(case: Case, root: Root) -> list[Part]:
    """The training sets of a case, in its order.

    Raises:
        ValueError: A set is missing or damaged, or its fraction leaves no sequence.
        RemoteError: One is behind a URL and cannot be reached.
    """
    skips = case.bertds.run.on_bad_shard == "skip"
    return [
        Part.open(root, one.name, one.fraction, one.weight, skips_bad=skips)
        for one in case.bertds.data.train
    ]


def mean_length_of(parts: list[Part]) -> float:
    """Tokens a sequence over an epoch of all parts, each taken to be like the whole of its set."""
    counts = [part.num_sequences * part.weight for part in parts]
    tokens = sum(part.mean_length * count for part, count in zip(parts, counts, strict=True))
    return tokens / sum(counts)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What masking and packing need of the tokenizer that all sets share."""

    size: int
    fingerprint: str
    pad_id: int
    mask_id: int
    unmaskable_ids: tuple[int, ...]
    framed: bool
    """Whether [CLS] and [SEP] stand around every sequence."""
    directory: Path
    """A set's directory, which holds the tokenizer.json."""
    place: str
    """What the user calls that set."""

    @classmethod
    def of(cls, parts: list[Part]) -> "Vocabulary":
        """The vocabulary of all parts.

        Raises:
            ValueError: Two parts were made with different tokenizers, or only one with [CLS] and
                [SEP].
            ShardError: The tokenizer.json beside the shards is not theirs.
        """
        first = parts[0].shards
        for part in parts[1:]:
            if part.shards.index.tokenizer != first.index.tokenizer:
                raise ValueError(
                    f"{part.shards.files} was made with another tokenizer than "
                    f"{first.files}: shard both with the same tokenizer.json"
                )
            if part.shards.index.special_tokens != first.index.special_tokens:
                raise ValueError(
                    f"only one of {part.shards.files} and {first.files} has [CLS] and "
                    "[SEP] around its sequences: shard both with --special_tokens, or neither"
                )
        _check_tokenizer(first)
        index = first.index
        special = index.special_ids
        return cls(
            index.vocab_size,
            index.tokenizer,
            special["pad"],
            special["mask"],
            index.unmaskable_ids,
            index.special_tokens,
            first.directory,
            str(first.files),
        )

    def masker(self, config: MaskingConfig) -> Masker:
        """The masker of a case's rule over this vocabulary."""
        by_word = config.unit == "word"
        starts = Tokenizer.load(self.directory / TOKENIZER_NAME).word_starts() if by_word else None
        return Masker(
            rule_of(config),
            vocab_size=self.size,
            mask_id=self.mask_id,
            unmaskable_ids=self.unmaskable_ids,
            word_starts=starts,
        )


def _check_tokenizer(shards: ShardSet) -> None:
    """That the file is the one that the index names: a run takes it for its own."""
    path = shards.directory / TOKENIZER_NAME
    if not path.is_file():
        raise ShardError(f"{path} is missing: copy it from where the shards were made")
    if not has_own_tokenizer(shards):
        raise ShardError(
            f"{path} is not the tokenizer that the shards were made with: copy that one here again"
        )


def rule_of(config: MaskingConfig) -> MaskRule:
    """The rule that a case's masking block gives."""
    return MaskRule(
        seed=config.seed,
        ratio=config.ratio,
        mask_share=config.mask_share,
        random_share=config.random_share,
        unit=config.unit,
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """Masked sequences end to end, ready to be cut."""

    tokens: Ints
    """(T,) the ids that stood there."""
    inputs: Ints
    """(T,) ids with masks applied."""
    is_masked: npt.NDArray[np.bool_]
    """(T,) whether to predict the token."""
    lengths: Int64s
    """(S,) tokens of each sequence."""
    ends: Int64s
    """(S + 1,) where each sequence starts, and T."""

    @classmethod
    def of(
        cls, tokens: Ints, inputs: Ints, is_masked: npt.NDArray[np.bool_], lengths: Ints
    ) -> "Rows":
        """Sequences of these lengths."""
        ends = np.zeros(lengths.size + 1, dtype=np.int64)
        np.cumsum(lengths, out=ends[1:])
        return cls(tokens, inputs, is_masked, lengths.astype(np.int64), ends)

    def cut(self, start: int, stop: int) -> "Rows":
        """Sequences start to stop - 1."""
        a, b = int(self.ends[start]), int(self.ends[stop])
        lengths, ends = self.lengths[start:stop], self.ends[start : stop + 1] - a
        return Rows(self.tokens[a:b], self.inputs[a:b], self.is_masked[a:b], lengths, ends)

    def pick(self, sequences: Int64s) -> "Rows":
        """The sequences of these numbers, in their order."""
        lengths = self.lengths[sequences]
        shifts = self.ends[sequences] - (np.cumsum(lengths) - lengths)
        gather = np.repeat(shifts, lengths)
        gather += np.arange(gather.size)
        tokens, inputs = self.tokens.take(gather), self.inputs.take(gather)
        return Rows.of(tokens, inputs, self.is_masked.take(gather), lengths)


def join(rows: list[Rows]) -> Rows:
    """All sequences of several, one after the other."""
    return Rows.of(
        np.concatenate([part.tokens for part in rows]),
        np.concatenate([part.inputs for part in rows]),
        np.concatenate([part.is_masked for part in rows]),
        np.concatenate([part.lengths for part in rows]),
    )


class MaskedSet:
    """A part whose blocks come masked."""

    def __init__(self, part: Part, masker: Masker, masking: MaskingConfig) -> None:
        """Prepare reading.

        Raises:
            ValueError: The set is pre-masked by another rule than the case's.
        """
        self.part = part
        self.masker, self._seed = masker, masking.seed
        self._copies = None if masking.mode == "dynamic" else masking.copies
        self._set_key = int(part.shards.index.set_key, 16)
        self._stored = part.shards.index.masking is not None
        if self._stored:
            _check_stored(part, masking)

    def read(self, block: int, pass_number: int) -> Rows:
        """All sequences of a block, masked as in a pass over the set.

        Raises:
            ShardError: The block is damaged and nothing may stand in for it.
        """
        if not self.part.skips_bad:
            return self._rows(block, self.part.shards.read_block(block), pass_number)
        found, content = self.part.shards.read_whole_block(block, self.part.num_blocks)
        rows = self._rows(found, content, pass_number)
        if found == block:
            return rows
        # As many as the order counts on, so that every process has as many steps as before.
        used = min(
            rows.lengths.size, self.part.num_sequences - self.part.shards.first_sequence(found)
        )
        return rows.pick(np.arange(self.part.shards.block_sequences[block]) % used)

    def _rows(self, block: int, content: Block, pass_number: int) -> Rows:
        copy = pass_number if self._copies is None else pass_number % self._copies
        inputs, positions = self._masked(block, content, copy)
        is_masked = np.zeros(content.tokens.size, dtype=bool)
        is_masked[positions] = True
        return Rows.of(content.tokens, inputs, is_masked, content.lengths)

    def _masked(self, number: int, block: Block, copy: int) -> tuple[Ints, Ints]:
        """A block's ids with masks applied, and where they are: stored ones, or made here."""
        if self._stored:
            return block.inputs[copy], block.positions[copy]
        ordinals = self.part.shards.first_sequence(number) + np.arange(block.lengths.size)
        keys = sequence_keys(self._seed, self._set_key, copy, ordinals)
        return self.masker.mask(block.tokens, block.lengths, keys)


def _check_stored(part: Part, masking: MaskingConfig) -> None:
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
