"""Small random models of each class that can be continued, as `save_pretrained` writes them."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers.processors import TemplateProcessing

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 48, "initializer_range": 0.1}  # fmt: skip
# Keys that training does not read.
UNREAD = {"attention_probs_dropout_prob": 0.37, "classifier_dropout": 0.21,
          "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}  # fmt: skip
BERT = {"max_position_embeddings": 96, "type_vocab_size": 2, **UNREAD}
ROBERTA = {**BERT, "max_position_embeddings": 97, "layer_norm_eps": 1e-5}
ROBERTAS = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForPreTraining", "bert", BERT),
    "bare_bert": ("BertModel", "bert", BERT),
    "prenorm": ("RobertaPreLayerNormForMaskedLM", "bert-prenorm",
                {**BERT, "type_vocab_size": 3, "max_position_embeddings": 97}),
    **{kind: (f"{name}ForMaskedLM", kind, ROBERTA) for kind, name in ROBERTAS.items()},
    "distilbert": ("DistilBertForMaskedLM", "distilbert",
                   {"max_position_embeddings": 96, "seq_classif_dropout": 0.3, "dim": 32,
                    "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "qa_dropout": 0.4}),
    "modernbert": ("ModernBertForMaskedLM", "modernbert",
                   {"max_position_embeddings": 96, "local_attention": 8, "classifier_dropout": 0.2,
                    "classifier_pooling": "mean", "mlp_dropout": 0.05}),
}  # fmt: skip


def save_model(tokenizer, directory: Path, name: str) -> Path:
    hf_class, _, options = MODELS[name]
    import transformers

    model_class = getattr(transformers, hf_class)
    config = model_class.config_class(
        vocab_size=tokenizer.vocab_size, pad_token_id=0, **SIZES, **options
    )
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(directory)
    backend = tokenizers.Tokenizer.from_str(tokenizer.content.decode())
    cls, sep = (tokenizer.special_ids[role] for role in ("cls", "sep"))
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=77,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(directory)  # fmt: skip
    # transformers 4 does not know the class that transformers 5 writes.
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings))
    return directory
