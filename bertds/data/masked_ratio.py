"""Compares the masking ratio that a case or a command asks for with the one that was reached.

The two differ where sequences are short, because at least one token of each is predicted, and where
words are long, because they are masked as a whole.
"""

from dataclasses import dataclass
from typing import Literal, Self

from bertds.config.schema import MaskingConfig
from bertds.data.shards.format import StoredMasking

_TOLERANCE = 0.1  # of the ratio that is asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedRatio:
    """The tokens to predict in some text."""

    expected: float
    """The ratio that is asked for."""
    unit: Literal["token", "word"]
    version: int
    """The masking version."""
    masked: int
    """Tokens to predict."""
    maskable: int
    """Tokens that may be masked: all but special and unknown ones."""

    @classmethod
    def of(cls, masking: MaskingConfig | StoredMasking, *, masked: int, maskable: int) -> Self:
        """Compare with the ratio of a case, or of pre-masked shards."""
        return cls(
            expected=masking.ratio,
            unit=masking.unit,
            version=masking.version,
            masked=masked,
            maskable=maskable,
        )

    @property
    def reached(self) -> float:
        """Tokens to predict / maskable tokens."""
        return self.masked / max(1, self.maskable)

    @property
    def is_off(self) -> bool:
        """Whether the two ratios differ by more than a tenth of the expected one."""
        return abs(self.reached - self.expected) > _TOLERANCE * self.expected

    def __str__(self) -> str:
        text = f"{self.reached:.1%} of the maskable tokens are predicted, at a ratio of "
        text += f"{self.expected:g}"
        if not self.is_off:
            return text
        if self.unit == "word" and self.version == 1 and self.reached > self.expected:
            return (
                f"{text}: single words are longer than that; use masking.version 2, which cuts "
                "such words"
            )
        return (
            f"{text}: many sequences are so short that the number of tokens to predict, at least "
            "one, is rounded far from it; longer sequences keep it (data_prep shard --join "
            "documents)"
        )
