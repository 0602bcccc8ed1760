"""A Hugging Face directory initializes a case's model exactly, or is rejected with the difference."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertds.config.presets import PRESETS
from bertds.config.schema import ModelConfig
from bertds.errors import ConfigError
from bertds.huggingface.architectures import ARCHITECTURES, architecture_of
from bertds.huggingface.config import config_json, difference
from bertds.huggingface.config_keys import KEYS
from bertds.huggingface.pretrained import open_pretrained
from bertds.huggingface.tokenizer import standalone_tokenizer
from bertds.huggingface.weights import to_hf_state_dict
from bertds.model.mlm import MaskedLanguageModel
from tests.helpers.tensors import SMALL

transformers = pytest.importorskip("transformers")
PAD = 0


def make_config(**fields) -> ModelConfig:
    return ModelConfig.model_validate(SMALL | {"local_attention": 8} | fields)


def make_model(tokenizer, seed: int = 0, **fields) -> MaskedLanguageModel:
    torch.manual_seed(seed)
    return MaskedLanguageModel(make_config(**fields), tokenizer.vocab_size, PAD)


def write(model: MaskedLanguageModel, tokenizer, directory: Path, **changes) -> Path:
    directory.mkdir(exist_ok=True)
    tensors = {name: x.contiguous() for name, x in to_hf_state_dict(model, PAD).items()}
    save_file(tensors, directory / "model.safetensors")
    content = config_json(model.config, tokenizer.vocab_size, tokenizer.special_ids)
    (directory / "config.json").write_text(json.dumps(content | changes))
    (directory / "tokenizer.json").write_bytes(tokenizer.content)
    return directory


def init_from(directory: Path, tokenizer, **fields) -> MaskedLanguageModel:
    """A model with other random weights, into which the directory's are loaded."""
    model = make_model(tokenizer, seed=1, **fields)
    weights = open_pretrained(directory, model.config, tokenizer).weights()
    assert list(weights) == [name for name, _ in model.named_parameters()]
    model.load_state_dict(weights, strict=False)
    return model


def assert_bit_exact(model: MaskedLanguageModel, other: MaskedLanguageModel) -> None:
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32)), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("preset", PRESETS)
def test_exported_weights_are_loaded_bit_exactly(tokenizer, tmp_path, preset, tied):
    fields = {"preset": preset, "tie_word_embeddings": tied}
    model = make_model(tokenizer, **fields)
    assert_bit_exact(model, init_from(write(model, tokenizer, tmp_path), tokenizer, **fields))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("preset", PRESETS)
def test_files_saved_by_transformers_are_loaded(tokenizer, tmp_path, preset, tied):
    """Several files, the library's own config.json, a pooler, token types that are not zero."""
    fields = {"preset": preset, "tie_word_embeddings": tied}
    directory = write(make_model(tokenizer, **fields), tokenizer, tmp_path / "ours")
    hf_model = transformers.AutoModelForMaskedLM.from_pretrained(directory).eval()
    with torch.no_grad():
        for name, parameter in hf_model.named_parameters():
            if "token_type" in name or name.endswith("bias"):
                parameter.normal_()
    saved = tmp_path / "saved"
    hf_model.save_pretrained(saved, max_shard_size="20KB")
    assert (saved / "model.safetensors.index.json").is_file()
    (saved / "tokenizer.json").write_bytes(tokenizer.content)
    model = init_from(saved, tokenizer, **fields).eval()
    exported = transformers.AutoModelForMaskedLM.from_pretrained(
        write(model, tokenizer, tmp_path / "exported")
    )
    ids = torch.randint(5, tokenizer.vocab_size, (2, 20), generator=torch.Generator())
    with torch.no_grad():
        torch.testing.assert_close(
            exported(input_ids=ids).logits, hf_model(input_ids=ids).logits, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_padded_beyond_its_tokenizer_is_continued(tokenizer, tmp_path, tied):
    """The rows are kept, and neither our model nor the exported one predicts them."""
    fields = {"preset": "bert", "tie_word_embeddings": tied}
    multiple = next(n for n in (16, 32) if tokenizer.vocab_size % n)
    rows = make_config(pad_vocab_to_multiple_of=multiple).padded_vocab_size(tokenizer.vocab_size)
    directory = write(make_model(tokenizer, **fields), tokenizer, tmp_path / "ours")
    hf_model = transformers.AutoModelForMaskedLM.from_pretrained(directory)
    hf_model.resize_token_embeddings(rows)
    torch.nn.init.ones_(hf_model.get_output_embeddings().bias)  # likely, if they were predicted
    hf_model.save_pretrained(tmp_path / "padded")
    (tmp_path / "padded" / "tokenizer.json").write_bytes(tokenizer.content)
    with pytest.raises(ConfigError, match=f"model.pad_vocab_to_multiple_of to {multiple},"):
        init_from(tmp_path / "padded", tokenizer, **fields)
    fields["pad_vocab_to_multiple_of"] = multiple
    model = init_from(tmp_path / "padded", tokenizer, **fields).eval()
    embeddings = model.encoder.embeddings.tokens.weight
    assert torch.equal(embeddings, hf_model.get_input_embeddings().weight)
    again = write(model, tokenizer, tmp_path / "again")
    exported = transformers.AutoModelForMaskedLM.from_pretrained(again).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        logits, hf_logits = exported(input_ids=ids).logits, hf_model.eval()(input_ids=ids).logits
    assert logits.shape[-1] == rows > tokenizer.vocab_size
    used = slice(tokenizer.vocab_size)
    torch.testing.assert_close(logits[..., used], hf_logits[..., used], rtol=1e-5, atol=1e-5)
    assert (logits.softmax(-1)[..., tokenizer.vocab_size :] == 0).all()
    assert_bit_exact(model, init_from(again, tokenizer, **fields))


def test_old_names_bf16_and_other_heads_are_accepted(tokenizer, tmp_path):
    model = make_model(tokenizer, preset="bert").bfloat16()
    write(model, tokenizer, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): x
        for name, x in tensors.items()
    }
    old["bert.pooler.dense.weight"] = torch.zeros(2)
    old["cls.seq_relationship.bias"] = torch.zeros(2)
    old["cls.predictions.decoder.weight"] = torch.zeros(tokenizer.vocab_size, 16)
    old["bert.embeddings.position_ids"] = torch.arange(32)
    save_file(old, tmp_path / "model.safetensors")
    assert_bit_exact(model.float(), init_from(tmp_path, tokenizer, preset="bert"))


@pytest.mark.parametrize("preset", PRESETS)
def test_copies_of_tied_weights_are_accepted(tokenizer, tmp_path, preset):
    """Older files hold the decoder's matrix, and in some classes its bias, a second time."""
    model = make_model(tokenizer, preset=preset)
    write(model, tokenizer, tmp_path)
    architecture = architecture_of(model.config)
    tensors = load_file(tmp_path / "model.safetensors")
    (decoder,) = architecture.hf_names("head.decoder.weight")
    tensors[decoder] = model.head.decoder.weight.detach().clone()
    tensors[architecture.decoder_module_bias] = tensors[architecture.decoder_bias].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    assert_bit_exact(model, init_from(tmp_path, tokenizer, preset=preset))


def test_global_random_state_is_unchanged(tokenizer, tmp_path):
    directory = write(make_model(tokenizer), tokenizer, tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    open_pretrained(directory, make_config(), tokenizer)
    assert torch.equal(torch.rand(3), expected)


def test_architecture_mismatch_names_the_key(tokenizer, tmp_path):
    directory = write(make_model(tokenizer), tokenizer, tmp_path)
    for fields, words in [
        ({"num_hidden_layers": 5}, r"num_hidden_layers 3, the case needs 5 \(model.num_hidden"),
        ({"hidden_act": "relu"}, r"hidden_act 'gelu', the case needs 'relu' \(model.hidden_act"),
        ({"max_position_embeddings": 64}, "max_position_embeddings 33, the case needs 65"),
        ({"preset": "bert"}, "model_type 'roberta-prelayernorm', the case needs 'bert'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-12, the case needs 1e-05"),
        ({"positions": "sinusoidal"}, "model.positions is 'sinusoidal'"),
        ({"bias": False}, "model.bias is false"),
        ({"feed_forward": "glu"}, "model.feed_forward is 'glu'"),
    ]:
        with pytest.raises(ConfigError, match=f"run.init_from {tmp_path}: .*{words}"):
            open_pretrained(directory, make_config(**fields), tokenizer)


@pytest.mark.parametrize(
    "architecture", ARCHITECTURES, ids=lambda architecture: architecture.preset
)
def test_omitted_keys_have_the_defaults_of_the_class(architecture):
    """A file with the model type only equals the class's own full config, in both directions."""
    hf_class = architecture.name.replace("ForMaskedLM", "Config")
    full = getattr(transformers, hf_class)().to_dict()
    least = {"model_type": architecture.model_type}
    assert difference(least, full, architecture) == ""
    assert difference(full, full | least, architecture) == ""
    for key in full.keys() & (KEYS[architecture.name].keys() | {"vocab_size"}):
        kept = {name: value for name, value in full.items() if name != key}
        assert difference(kept, full, architecture) == ""
        if key != "layer_types":
            fault = difference(kept, full | {key: "another"}, architecture)
            assert fault.startswith(f"config.json has {key} {full[key]!r} by default, the case")


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": None}, {"rope_parameters": [1]}, {"hidden_size": "16"}]
)
def test_a_value_of_another_type_is_an_error_that_names_the_file(tokenizer, tmp_path, changes):
    directory = write(make_model(tokenizer, preset="modernbert"), tokenizer, tmp_path, **changes)
    content = json.loads((directory / "config.json").read_text())
    del content["layer_types"]
    (directory / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"run.init_from {directory}: config.json has"):
        open_pretrained(directory, make_config(preset="modernbert"), tokenizer)


def test_modernbert_keys_of_transformers_4_and_5_are_compared(tokenizer, tmp_path):
    model = make_model(tokenizer, preset="modernbert")
    directory = write(model, tokenizer, tmp_path)
    content = json.loads((directory / "config.json").read_text())
    keys_of_5 = ("layer_types", "rope_parameters")
    keys_of_4 = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
    for dropped in ((), keys_of_5, keys_of_4):
        kept = {key: value for key, value in content.items() if key not in dropped}
        (directory / "config.json").write_text(json.dumps(kept))
        open_pretrained(directory, model.config, tokenizer)
        for fields, words in [
            ({"local_attention": 16}, "local_attention"),
            ({"global_attn_every_n_layers": 2}, "layer_types"),
            ({"rope_theta": 9.0}, "rope_theta"),
            ({"local_rope_theta": 9.0}, "local_rope_theta"),
        ]:
            with pytest.raises(ConfigError, match=words):
                open_pretrained(directory, make_config(preset="modernbert", **fields), tokenizer)


def test_another_vocabulary_is_rejected(tokenizer, tmp_path):
    directory = write(make_model(tokenizer), tokenizer, tmp_path)
    content = json.loads(tokenizer.content)
    first, second = list(content["model"]["vocab"])[10:12]
    content["model"]["vocab"] |= {first: 11, second: 10}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    message = f"{second!r} as token 10, but the shards' tokenizer has {first!r}: create the shards"
    with pytest.raises(ConfigError, match=re.escape(message)):
        open_pretrained(directory, make_config(), tokenizer)
    write(make_model(tokenizer), tokenizer, tmp_path, vocab_size=7)
    with pytest.raises(ConfigError, match="vocab_size 7, the case needs .*resize_token_embeddings"):
        open_pretrained(directory, make_config(), tokenizer)


def test_a_tokenizer_that_splits_text_otherwise_is_told(tokenizer, tmp_path):
    """The tokens are the same, but the exported tokenizer would not be that of the shards."""
    directory = write(make_model(tokenizer), tokenizer, tmp_path)

    def notes():
        return [
            n for n in open_pretrained(directory, make_config(), tokenizer).notes() if "ids" in n
        ]

    assert notes() == []
    exported = standalone_tokenizer(tokenizer, add_special_tokens=True)  # of a run
    (directory / "tokenizer.json").write_bytes(exported.content)
    assert notes() == []
    content = json.loads(tokenizer.content) | {"normalizer": {"type": "Lowercase"}}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert "has another normalizer than that of the shards" in notes()[0]


def damage(directory: Path, kind: str) -> None:
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    match kind:
        case "pickle":
            weights.rename(directory / "pytorch_model.bin")
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-10])
        case "missing":
            tensors.pop("lm_head.dense.weight")
            save_file(tensors, weights)
        case "unknown":
            save_file(tensors | {"adapter.weight": torch.zeros(1)}, weights)
        case "shape":
            save_file(tensors | {"lm_head.bias": torch.zeros(3)}, weights)
        case "outside":
            weights.rename(directory / "model-1.safetensors")
            content = {"weight_map": dict.fromkeys(tensors, "../model-1.safetensors")}
            (directory / "model.safetensors.index.json").write_text(json.dumps(content))
        case "no config":
            (directory / "config.json").unlink()
        case "config":
            (directory / "config.json").write_text("[")
        case "no tokenizer":
            (directory / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pickle", "pytorch_model.bin is a pickle"),
        ("cut", "model.safetensors is not a complete safetensors file"),
        ("missing", "tensor lm_head.dense.weight is missing, .* needs .16, 16"),
        ("unknown", "tensor adapter.weight does not exist in the case's model"),
        ("shape", r"tensor lm_head.bias has shape \[3\]"),
        ("outside", "names a file outside the directory: '../model-1.safetensors'"),
        ("no config", "config.json is missing"),
        ("config", "config.json is not JSON"),
        ("no tokenizer", "has no tokenizer.json: save it"),
    ],
)
def test_damage_is_named(tokenizer, tmp_path, kind, words):
    directory = write(make_model(tokenizer), tokenizer, tmp_path)
    damage(directory, kind)
    with pytest.raises(ConfigError, match=f"^run.init_from {tmp_path}: .*{words}"):
        open_pretrained(directory, make_config(), tokenizer)


def test_model_name_on_the_hub_is_rejected(tokenizer):
    with pytest.raises(ConfigError, match="'someone/model', expected a directory"):
        open_pretrained(Path("someone/model"), make_config(), tokenizer)


def test_scaled_rotary_embeddings_are_rejected(tokenizer, tmp_path):
    model = make_model(tokenizer, preset="modernbert")
    scaled = {"full_attention": {"rope_type": "yarn", "rope_theta": 160_000.0, "factor": 4}}
    write(model, tokenizer, tmp_path, rope_parameters=scaled)
    with pytest.raises(ConfigError, match="rope_type 'yarn', the case needs 'default'"):
        open_pretrained(tmp_path, model.config, tokenizer)


def test_integer_rotary_base_is_accepted(tokenizer, tmp_path):
    """Older files have integers."""
    model = make_model(tokenizer, preset="modernbert")
    write(model, tokenizer, tmp_path, global_rope_theta=160000, rope_parameters={})
    open_pretrained(tmp_path, model.config, tokenizer)
