"""Pickled weights become safetensors, and code in a pickle is not run."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertds.huggingface.pretrained import open_pretrained
from tests.helpers.trained_runs import bertds_command
from tests.huggingface.test_pretrained import make_config, make_model, write


@pytest.fixture
def pickled(tokenizer, tmp_path):
    """A directory as older models have it: tied tensors share their memory."""
    directory = write(make_model(tokenizer), tokenizer, tmp_path / "hub")
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.decoder.weight"] = tensors[
        "roberta_prelayernorm.embeddings.word_embeddings.weight"
    ]
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    return directory


def test_the_converted_directory_starts_a_run(pickled, tokenizer, tmp_path, capsys):
    with pytest.raises(ValueError, match="python -m bertds convert") as error:
        open_pretrained(pickled, make_config(), tokenizer)
    command = str(error.value).partition("python -m bertds ")[2].split()
    out = tmp_path / "converted"
    code, stdout, _ = bertds_command(capsys, *command[:2], "--out", out)
    assert code == 0
    assert "config.json, model.safetensors, tokenizer.json" in stdout
    weights = open_pretrained(out, make_config(), tokenizer).weights()
    for name, parameter in make_model(tokenizer).named_parameters():
        assert torch.equal(weights[name], parameter)


def test_weights_in_several_files_become_one(pickled, tmp_path, capsys):
    tensors = torch.load(pickled / "pytorch_model.bin")
    names, half = list(tensors), len(tensors) // 2
    files = {"a.bin": names[:half], "b.bin": names[half:]}
    for file, part in files.items():
        torch.save({name: tensors[name] for name in part}, pickled / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    index = pickled / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert bertds_command(capsys, "convert", index, "--out", tmp_path / "one")[0] == 0
    converted = load_file(tmp_path / "one/model.safetensors")
    assert converted.keys() == tensors.keys()
    assert not (tmp_path / "one" / index.name).exists()


class Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_is_not_run_and_nothing_is_left(tmp_path, capsys):
    out = tmp_path / "out"
    contents = {
        "code.bin": pickle.dumps(Code(tmp_path / "ran")),
        "cut.bin": b"PK\x03\x04",
        "text.bin": b"no pickle",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        code, _, stderr = bertds_command(capsys, "convert", tmp_path / name, "--out", out)
        assert code == 2
        assert "cannot be read as weights only" in stderr
        assert stderr.count("\n") == 1
    torch.save({"step": 3}, tmp_path / "other.bin")
    code, _, stderr = bertds_command(capsys, "convert", tmp_path / "other.bin", "--out", out)
    assert (code, "other objects than tensors" in stderr) == (2, True)
    code, _, stderr = bertds_command(capsys, "convert", tmp_path / "none.bin", "--out", out)
    assert (code, "is not a file" in stderr) == (2, True)
    assert not (tmp_path / "ran").exists()
    assert not out.exists()
