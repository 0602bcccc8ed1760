"""The vocabulary that all datasets of a run share."""

from dataclasses import dataclass
from pathlib import Path

from bertds.config.schema import MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.masking import Masker, MaskRule
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.shards.reader import ShardSet, has_own_tokenizer
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ShardError


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
    def of(cls, parts: list[DatasetSubset]) -> "Vocabulary":
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
