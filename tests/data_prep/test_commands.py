"""The commands as a user runs them: flags, output, exit codes and error messages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bertds.cli import run
from bertds.data.shards.reader import ShardSet
from data_prep.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:surrogateescape"}


def command(*arguments: object) -> int:
    return run("python -m data_prep", COMMANDS, [str(argument) for argument in arguments])


@pytest.fixture
def text(tmp_path, lines):
    """A text file of 800 lines."""
    (tmp_path / "text.txt").write_text("\n".join([*lines["ko"], *lines["en"]]))
    return tmp_path / "text.txt"


@pytest.fixture
def tokenizer_path(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    assert command("tokenizer", "--input", text, "--merges", 200, "--out", path, "--lowercase") == 0
    return path


@pytest.fixture
def shard_dir(tmp_path, text, tokenizer_path):
    out = tmp_path / "data"
    assert command("shard", "--input", text, "--tokenizer", tokenizer_path, "--out", out,
                   "--workers", 1) == 0  # fmt: skip
    return out


def test_shard_writes_valid_sets_with_the_defaults(shard_dir, capsys):
    assert command("verify", shard_dir) == 0
    assert "2 shard sets, no faults" in capsys.readouterr().out
    index = ShardSet.open(shard_dir / "train").index
    assert (index.seq_len, index.special_tokens, index.masking) == (256, True, None)


def test_flags_of_shard_take_effect(tmp_path, text, tokenizer_path):
    out = tmp_path / "other"
    assert command("shard", f"--input={text}", f"--tokenizer={tokenizer_path}", f"--out={out}",
                   "--valid_fraction=0", "--seq_len=16", "--nospecial_tokens", "--workers=1",
                   "--masking=static", "--copies=2", "--mask_ratio=0.3", "--mask_unit=word",
                   "--mask_seed=9", "--seed=4") == 0  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["made.json", "train"]
    index = ShardSet.open(out / "train").index
    assert (index.seq_len, index.special_tokens) == (16, False)
    masking = index.masking
    assert (masking.copies, masking.ratio, masking.unit, masking.seed) == (2, 0.3, "word", 9)
    assert command("verify", out) == 0


def test_the_tokenizer_may_be_a_directory(tmp_path, text, tokenizer_path):
    (tmp_path / "model").mkdir()
    tokenizer_path.rename(tmp_path / "model" / "tokenizer.json")
    assert command("shard", f"--input={text}", "--tokenizer", tmp_path / "model",
                   "--out", tmp_path / "out", "--workers", 1) == 0  # fmt: skip


def test_standard_input_gives_the_same_shards(tmp_path, text, tokenizer_path):
    arguments = [
        sys.executable, "-m", "data_prep", "shard", "--input", "-", "--out", tmp_path / "piped",
        "--tokenizer", tokenizer_path, "--workers=1",
    ]  # fmt: skip
    with text.open("rb") as file:
        subprocess.run(arguments, stdin=file, cwd=ROOT, check=True, capture_output=True)
    assert command("shard", "--input", text, "--out", tmp_path / "read", "--workers=1",
                   "--tokenizer", tokenizer_path) == 0  # fmt: skip
    for name in ("train", "valid"):
        piped, read = tmp_path / "piped" / name, tmp_path / "read" / name
        assert sorted(path.name for path in piped.iterdir()) == sorted(
            path.name for path in read.iterdir()
        )
        for path in piped.iterdir():
            assert path.read_bytes() == (read / path.name).read_bytes()


def test_show_prints_counts_and_writes_a_histogram(shard_dir, capsys):
    assert command("show", shard_dir / "train") == 0
    shown = capsys.readouterr().out
    index = ShardSet.open(shard_dir / "train").index
    assert re.search(rf"sequences +{index.sequences:,}\n", shown)
    assert re.search(rf"tokens +{index.tokens:,}\n", shown)
    assert "[CLS] " in shown
    bars = [int(count.replace(",", "")) for count in re.findall(r"\d+ to \d+ +([\d,]+)", shown)]
    assert sum(bars) == index.sequences
    picture = (shard_dir / "train" / "lengths.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert command("verify", shard_dir) == 0  # the histogram is not a fault
    assert command("show", shard_dir) == 0
    assert capsys.readouterr().out.count("set key") == 2


def test_show_works_in_a_locale_without_the_letters_of_the_text(shard_dir, tmp_path):
    """Also in a directory whose name the locale cannot read."""
    directory = shard_dir.rename(tmp_path / "말뭉치") / "train"
    variables = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command_line = [sys.executable, "-m", "data_prep", "show", str(directory)]
    variables = {**os.environ, **variables}
    done = subprocess.run(command_line, check=True, capture_output=True, env=variables)
    assert b" #####" in done.stdout
    assert done.stderr == b""
    assert f"({directory}/lengths.png)".encode() in done.stdout
    assert (directory / "lengths.png").stat().st_size > 1000


def test_verify_names_the_shard_and_exits_3(shard_dir, capsys):
    shard = shard_dir / "valid" / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    assert command("verify", shard_dir) == 3
    captured = capsys.readouterr()
    assert str(shard) in captured.err
    assert "train/shard" not in captured.err
    (shard_dir / "valid" / "index.json").unlink()
    assert command("verify", shard_dir) == 3
    assert str(shard_dir / "valid" / "index.json") in capsys.readouterr().err
    assert command("verify", shard_dir / "nowhere") == 3
    assert "nowhere has no shard set" in capsys.readouterr().err
    assert command("show", shard_dir / "valid") == 3


def test_names_that_are_not_utf8(tmp_path, text, shard_dir, capfd):
    """Python keeps such bytes of the command line and of file names as surrogates."""
    name = os.fsdecode(b"\xb0\xa1")
    shard_dir.rename(tmp_path / name)
    text.rename(tmp_path / f"{name}.txt")
    run_here = [sys.executable, "-m", "data_prep"]
    for arguments in (
        ["show", f"{name}/train"],
        ["shard", f"--input={name}.txt", f"--tokenizer={name}/train", "--out=new", "--workers=1"],
    ):
        done = subprocess.run([*run_here, *arguments], cwd=tmp_path, env=ENVIRONMENT, check=False)
        assert done.returncode == 0
    capfd.readouterr()
    assert command("tokenizer", f"--input={tmp_path}/{name}.txt", "--merges=9",
                   f"--column={name}", f"--out={tmp_path}/new.json") == 2  # fmt: skip
    assert "--column is '\\udcb0\\udca1', which is not valid text" in capfd.readouterr().err


INPUT = "--input={0}/text.txt"
SHARD = ["shard", INPUT, "--tokenizer={0}/tokenizer.json", "--out={0}/new"]
RECORD = ["record", "--ko={0}/text.txt", "--en={0}/text.txt", "--out={0}/new"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shard", "--inptu=x"], "--inptu"),
        (["shrad", "--input=x"], "shrad"),
        (["shard", "--input={0}/gone", *SHARD[2:]], "gone, which does not exist"),
        (["shard", INPUT, "--tokenizer={0}/gone.json", "--out={0}/new"], "gone.json"),
        (["shard", INPUT, "--tokenizer={0}/text.txt", "--out={0}/new"], "text.txt"),
        ([*SHARD, "--workers=0"], "--workers is 0"),
        ([*SHARD, "--masking=static", "--copies=0"], "--copies is 0"),
        ([*SHARD, "--masking=static", "--mask_ratio=1"], "--mask_ratio is 1"),
        (["tokenizer", INPUT, "--merges=99999", "--out={0}/new"], "99,999 were requested"),
        (["tokenizer", "--input={0}", "--merges=9", "--out={0}/new"], "expected a file or a glob"),
        (["sample", "--out={0}/new", "--sentences=0"], "--sentences is 0"),
        (["record", "--ko=-", *RECORD[2:]], "standard input"),
        ([*RECORD, "--merges=5,9"], "--merges is '5,9', expected different numbers"),
        ([*RECORD, "--merges=x"], "--merges is 'x', expected whole numbers"),
        ([*SHARD[:3], "--out={0}/text.txt/new"], "Not a directory"),
    ],
)
def test_mistakes_are_one_error_message_and_write_nothing(
    tmp_path, tokenizer_path, capsys, arguments, message
):
    before = sorted(tmp_path.rglob("*"))
    assert tokenizer_path in before
    capsys.readouterr()
    assert command(*(argument.format(tmp_path) for argument in arguments)) == 2
    errors = capsys.readouterr().err
    messages = [line for line in errors.split("\n") if line.startswith("python -m data_prep: ")]
    assert len(messages) == 1
    assert message in messages[0]
    assert "Traceback" not in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        assert command(name, "--help") == 0
        captured = capsys.readouterr()
        assert name in captured.out + captured.err
