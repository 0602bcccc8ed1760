"""Reads a Hugging Face directory as our own model, to evaluate it."""

from pathlib import Path

from bertds.config.schema import ModelConfig
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ConfigError
from bertds.huggingface.model_block import model_block
from bertds.huggingface.pretrained import open_pretrained
from bertds.model.mlm import MaskedLanguageModel


def read_hf_model(directory: Path, tokenizer: Tokenizer) -> MaskedLanguageModel:
    """The model with the directory's weights in fp32, on the CPU, in evaluation mode.

    Args:
        directory: A Hugging Face directory of a class that `run.init_from` accepts.
        tokenizer: The tokenizer of the data: the model's, or one that extends it.

    Raises:
        ConfigError: No case can have this model, or it has no head for masked tokens.
    """
    config = ModelConfig.model_validate(model_block(directory))
    pretrained = open_pretrained(directory, config, tokenizer)
    if not pretrained.has_head:
        raise ConfigError(
            f"{directory} is an encoder without a head for masked tokens, so there is nothing to "
            "evaluate: train one with python -m bertds init --from"
        )
    model = MaskedLanguageModel(config, tokenizer.vocab_size, tokenizer.special_ids["pad"])
    model.load_state_dict(
        pretrained.weights(), strict=False
    )  # a tied decoder has no weights of its own
    return model.eval()
