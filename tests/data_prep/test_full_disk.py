"""A disk that fills up: the file and what to do are named, and the same command resumes."""

import subprocess
from pathlib import Path

import pytest

from bertds.cli import run
from data_prep.__main__ import COMMANDS
from tests.helpers.small_disk import small_disk


@pytest.fixture(name="small_disk")
def mounted_disk(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as directory:
        yield directory


@pytest.fixture
def text(tmp_path, lines):
    (tmp_path / "text.txt").write_text("\n".join([*lines["ko"], *lines["en"]] * 40))
    return tmp_path / "text.txt"


def error_of(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert run("data_prep", COMMANDS, [str(argument) for argument in arguments]) == 2
    (message,) = [x for x in capsys.readouterr().err.split("\n") if x.startswith("data_prep: ")]
    return message


@pytest.mark.parametrize("workers", [1, 2])
def test_shard_names_the_file_and_resumes(tmp_path, text, small_disk, capsys, workers):
    path = tmp_path / "tokenizer.json"
    flags = [f"--input={text}", "--merges=200", f"--out={path}"]
    assert run("data_prep", COMMANDS, ["tokenizer", *flags]) == 0
    flags = ["shard", f"--input={text}", f"--tokenizer={path}", "--nodedup", "--seq_len=16"]
    message = error_of(capsys, *flags, f"--out={small_disk}/out", f"--workers={workers}")
    assert f"{small_disk}/out/" in message
    assert "No space left on device: free some space, then run the same command" in message
    assert "--scratch" in message
    subprocess.run(["mount", "-o", "remount,size=99m", str(small_disk)], check=True)
    for out in (small_disk / "out", tmp_path / "whole"):
        assert run("data_prep", COMMANDS, [*flags, f"--out={out}", "--workers=1"]) == 0
    for file in Path(tmp_path / "whole").rglob("*"):
        if file.is_file():
            other = small_disk / "out" / file.relative_to(tmp_path / "whole")
            assert other.read_bytes() == file.read_bytes()


def test_the_tokenizer_names_the_file_and_leaves_nothing(text, small_disk, capsys):
    (small_disk / "filler").write_bytes(bytes(253 * 4096))
    flags = ["tokenizer", f"--input={text}", "--merges=700", "--min_count=1"]
    message = error_of(capsys, *flags, f"--out={small_disk}/t.json")
    assert f"{small_disk}/t.json: No space left on device: free some space" in message
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_standard_input_that_does_not_fit(text, small_disk):
    arguments = ["python", "-m", "data_prep", "tokenizer", "--input=-", "--merges=9"]
    with text.open("rb") as file:
        done = subprocess.run(
            [*arguments, f"--out={small_disk}/t.json"], stdin=file, capture_output=True, text=True,
            check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    assert done.returncode == 2
    assert f"{small_disk}/.tmp-standard-input" in done.stderr
    assert "No space left on device: free some space" in done.stderr
    assert list(small_disk.iterdir()) == []
