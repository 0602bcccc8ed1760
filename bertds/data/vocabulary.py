"""The vocabulary that all datasets of a run share."""

from dataclasses import dataclass
from pathlib import Path

from bertds.config.schema import MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.masking import Masker, MaskRule
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.shards.reader import has_own_tokenizer
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ShardError


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The properties of the shared tokenizer that masking, packing and the model need."""

    size: int
    fingerprint: str
    """SHA-256 of the tokenizer.json."""
    pad_id: int
    mask_id: int
    unmaskable_ids: tuple[int, ...]
    has_special_tokens: bool
    """Whether every sequence begins with [CLS] and ends with [SEP]."""
    directory: Path
    """A local directory with the tokenizer.json."""
    source: str
    """The shard set that the tokenizer.json comes from, for messages."""

    @classmethod
    def of(cls, subsets: list[DatasetSubset]) -> "Vocabulary":
        """Read the vocabulary of datasets, and check that they share it.

        Raises:
            ValueError: Two datasets have different tokenizers, or only one has [CLS] and [SEP].
            ShardError: The tokenizer.json beside the shards is missing or was replaced.
        """
        first = subsets[0].shards
        for other in [subset.shards for subset in subsets[1:]]:
            if other.index.tokenizer != first.index.tokenizer:
                raise ValueError(
                    f"{other.files} was made with another tokenizer than {first.files}: shard both "
                    "with the same tokenizer.json"
                )
            if other.index.special_tokens != first.index.special_tokens:
                raise ValueError(
                    f"only one of {other.files} and {first.files} has [CLS] and [SEP] around its "
                    "sequences: shard both with --special_tokens, or neither"
                )
        # The run copies this file and uses it from then on.
        path = first.directory / TOKENIZER_NAME
        if not path.is_file():
            raise ShardError(f"{path} is missing: copy it from where the shards were made")
        if not has_own_tokenizer(first):
            raise ShardError(
                f"{path} is not the tokenizer that the shards were made with: restore the original"
            )
        index = first.index
        return cls(
            index.vocab_size,
            index.tokenizer,
            index.special_ids["pad"],
            index.special_ids["mask"],
            index.unmaskable_ids,
            index.special_tokens,
            first.directory,
            str(first.files),
        )

    def masker(self, config: MaskingConfig) -> Masker:
        """Build the masker of a case's masking rule."""
        word_starts = None
        if config.unit == "word":
            word_starts = Tokenizer.load(self.directory / TOKENIZER_NAME).word_starts()
        return Masker(
            MaskRule.of(config),
            vocab_size=self.size,
            mask_id=self.mask_id,
            unmaskable_ids=self.unmaskable_ids,
            word_starts=word_starts,
        )
