"""Pre-training of BERT-like encoders on DeepSpeed, from raw text to a Hugging Face model.

The Python API is `Case`, `train`, `load_model` and `Model`. Each is imported on first access,
because many parts of the package work without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertds.api import Model, load_model, train
    from bertds.runs.case_file import Case

__all__ = ["Case", "Model", "load_model", "train"]


def __getattr__(name: str) -> Any:
    if name == "Case":
        from bertds.runs.case_file import Case

        return Case
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bertds import api

    return getattr(api, name)
