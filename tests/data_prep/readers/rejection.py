"""Runs the commands on input that they must reject, and checks what a rejection leaves."""

import tokenizers

from bertds.cli import run
from data_prep.__main__ import COMMANDS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def error_message(tmp_path, capsys, *flags):
    """The only error message of `tokenizer` and `shard`; they must exit with 2 and write nothing."""
    tokenizer_path = tmp_path / "tokenizer.json"
    message = ""
    for command in (
        ["tokenizer", "--merges=9", "--min_count=1"],
        ["shard", f"--tokenizer={tokenizer_path}"],
    ):
        if command[0] == "shard":
            tokenizer_path.write_text(_empty_tokenizer())
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        code = run("data_prep", COMMANDS, [*command, f"--out={tmp_path}/new", *flags])
        errors = capsys.readouterr().err
        messages = [line for line in errors.splitlines() if line.startswith("data_prep: ")]
        assert code == 2
        assert len(messages) == 1
        assert "Traceback" not in errors
        assert sorted(tmp_path.rglob("*")) == before
        message = messages[0]
    return message


def change_file(path, change):
    """Replace the content of a file by `change(content)`."""
    path.write_bytes(change(path.read_bytes()))


def _empty_tokenizer():
    ids = {name: number for number, name in enumerate(SPECIAL)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=[], unk_token="[UNK]"))
    backend.add_special_tokens([*ids])
    return backend.to_str()
