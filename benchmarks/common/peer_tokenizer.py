"""The tokenizer of the corpus as the peers load it; imported only in their environments."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast


def load_tokenizer(arrays: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer beside a directory of plain arrays."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(arrays.parent / "tokenizer.json"),
        pad_token="[PAD]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )
