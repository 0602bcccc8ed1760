"""The corpus's tokenizer as the peers use it."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast


def tokenizer_of(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that lies beside a directory of plain arrays."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(directory.parent / "tokenizer.json"),
        pad_token="[PAD]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )
