"""Command lines: values arrive verbatim; a mistake runs nothing and gives a one-line message."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from bertds.cli import run
from bertds.errors import exit_code_of

calls: list[dict[str, object]] = []


def make(
    input: str,
    out: Path,
    fraction: float = 0.1,
    count: int = 3,
    dedup: bool = True,
    masking: Literal["none", "static"] = "none",
    arm: str | None = None,
    workers: int | None = None,
) -> None:
    """Make something.

    Args:
        input: The text to read.
        out: Where to.
    """
    calls.append(dict(locals()))


def fail(kind: str) -> int:
    """Fail in one way."""
    errors = {
        "value": ValueError("the key is wrong:\n  it should\tbe right"),
        "coded": CodedError("a shard is damaged"),
        "file": FileNotFoundError(2, "No such file or directory", "gone.txt"),
        "interrupt": KeyboardInterrupt(),
    }
    if kind in errors:
        raise errors[kind]
    return int(kind)


class CodedError(ValueError):
    code = 3


def join(first: Path, *others: Path, out: Path | None = None) -> None:
    """Join files.

    Args:
        first: A file.
        others: More files.
        out: Where to.
    """
    calls.append({"first": first, "others": others, "out": out})


COMMANDS = {"make": make, "fail": fail}
NEEDED = ["--input=text", "--out=there"]


def call(*arguments: str) -> dict[str, object]:
    calls.clear()
    assert run("program", COMMANDS, ["make", *arguments]) == 0
    (given,) = calls
    return given


def message(capsys, *arguments: str) -> str:
    """The error message about a mistake; nothing was run."""
    calls.clear()
    assert run("program", COMMANDS, list(arguments)) == 2
    assert calls == []
    error = capsys.readouterr().err
    assert error.startswith("program: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "value",
    ["5e-4", "[MASK]", "# not a comment", "-", "1", "None", "{'a': 1}", "", " a  b ", "a=b", "한국어",
     "(1,2)", "0x10", "'quoted'", "--", "True", "-5", "a,b", "\\n", "a\nb"],
)  # fmt: skip
def test_text_arrives_verbatim(value):
    assert call("--input=" + value, "--out=o")["input"] == value
    assert call("--out=o", f"--arm={value}", "--input=i")["arm"] == value
    if not value.startswith("--"):
        assert call("--input", value, "--out", "o")["input"] == value
        assert call(value, "o")["input"] == value


def test_values_are_of_the_annotated_type():
    given = call(
        "--fraction", "1e-1", "--count", "-4", "--masking", "static", "--workers=2", *NEEDED
    )
    assert given == {
        "input": "text",
        "out": Path("there"),
        "fraction": 0.1,
        "count": -4,
        "dedup": True,
        "masking": "static",
        "arm": None,
        "workers": 2,
    }
    assert [type(value) for value in given.values()][1:4] == [type(Path()), float, int]


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ([], True),
        (["--dedup"], True),
        (["--nodedup"], False),
        (["--dedup=false"], False),
        (["--dedup", "False"], False),
        (["--dedup", "true"], True),
    ],
)
def test_boolean_flags(flags, value):
    assert call(*flags, *NEEDED)["dedup"] is value
    assert call(*NEEDED, *flags)["dedup"] is value


def test_a_boolean_flag_takes_no_positional_argument():
    given = call("--dedup", "text", "there")
    assert (given["input"], given["out"], given["dedup"]) == ("text", Path("there"), True)


def test_flags_with_hyphens_and_by_first_letter():
    assert call("-i", "x", "-o=there")["input"] == "x"
    with_hyphen = {"one": lambda two_words: calls.append({"two_words": two_words})}
    with_hyphen["one"].__annotations__["two_words"] = str
    calls.clear()
    assert run("program", with_hyphen, ["one", "--two-words", "x"]) == 0
    assert calls == [{"two_words": "x"}]


def test_further_positions_are_converted_and_are_no_flag(capsys):
    commands = {"join": join}
    expected = {"first": Path("a"), "others": (Path("-1"), Path("1e5")), "out": Path("o")}
    for arguments in (
        ["a", "-1", "1e5", "--out", "o"],
        ["--out=o", "a", "-1", "1e5"],
        ["-1", "--first=a", "1e5", "-o=o"],
    ):
        calls.clear()
        assert run("program", commands, ["join", *arguments]) == 0
        assert calls == [expected]
    calls.clear()
    assert run("program", commands, ["join", "a"]) == 0
    assert calls == [{"first": Path("a"), "others": (), "out": None}]
    for arguments, part in (
        (["--out=o"], "--first is missing"),
        (["a", "--others=b"], "there is no flag --others"),
        (["a", ""], "--others is '', expected a path"),
    ):
        assert run("program", commands, ["join", *arguments]) == 2
        assert part in capsys.readouterr().err
    assert len(calls) == 1


@pytest.mark.parametrize("position", [0, 1, 2, 3])
@pytest.mark.parametrize("rank", [["--local_rank=3"], ["--local-rank=0"], ["--local_rank", "1"]])
def test_the_local_rank_of_a_launcher_is_ignored(position, rank):
    arguments = ["make", *NEEDED]
    calls.clear()
    assert run("program", COMMANDS, arguments[:position] + rank + arguments[position:]) == 0
    assert len(calls) == 1


def test_a_program_may_have_one_command():
    calls.clear()
    assert run("program", make, ["--local_rank=0", "text", "--out", "there"]) == 0
    assert calls[0]["input"] == "text"


def test_a_misspelled_flag_is_answered_with_the_nearest(capsys):
    error = message(capsys, "make", *NEEDED, "--fracton=0.2")
    assert "no flag --fracton, did you mean --fraction?" in error
    assert all(f"--{flag}" in error for flag in ("input", "out", "dedup", "workers"))


def test_a_misspelled_command_is_answered_with_the_nearest(capsys):
    assert "no command 'mkae', did you mean make?; the commands are make, fail" in message(
        capsys, "mkae", *NEEDED
    )
    assert "no command is given, expected one of make, fail" in message(capsys)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["make", "--input=x"], "--out is missing"),
        (["make"], "--input is missing"),
        (["make", *NEEDED, "more"], "'more' is superfluous"),
        (["make", *NEEDED, "--out=again"], "--out is given twice"),
        (["make", "text", "--out"], "--out needs a value"),
        (["make", "--input", "--out=o"], "--input needs a value"),
        (["make", *NEEDED, "--count=1.5"], "--count is '1.5', expected a whole number"),
        (["make", *NEEDED, "--fraction=nan"], "--fraction is 'nan', expected a number"),
        (["make", *NEEDED, "--fraction=x"], "--fraction is 'x', expected a number"),
        (["make", *NEEDED, "--dedup=maybe"], "--dedup is 'maybe', expected true or false"),
        (["make", *NEEDED, "--nodedup=1"], "no flag --nodedup"),
        (["make", *NEEDED, "--masking=Static"], "--masking is 'Static', expected one of none, static"),
        (["make", "--input=x", "--out="], "--out is '', expected a path"),
        (["make", *NEEDED, "--noinput"], "no flag --noinput"),
        (["make", *NEEDED, "-x", "3"], "no flag -x"),
        (["make", *NEEDED, "--workers"], "--workers needs a value"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_error(capsys, arguments, part):
    assert part in message(capsys, *arguments)


IGNORED = {"data": Path, "profile": bool, "dedup": str}


def test_ignored_flags_are_checked_and_dropped(capsys):
    calls.clear()
    arguments = ["make", "--data", "x", "--profile", "text", "there", "--dedup"]
    assert run("program", COMMANDS, arguments, ignored_flags=IGNORED) == 0
    assert (calls[0]["input"], calls[0]["dedup"]) == ("text", True)  # no parameter is ignored
    for argument, part in (("--data=", "'', expected a path"), ("--datta=x", "mean --data?")):
        assert run("program", COMMANDS, ["make", *NEEDED, argument], ignored_flags=IGNORED) == 2
        assert part in capsys.readouterr().err
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("value", 2, "program: the key is wrong: it should be right\n"),
        ("coded", 3, "program: a shard is damaged\n"),
        ("file", 2, "program: gone.txt: No such file or directory\n"),
        ("interrupt", 130, "program: interrupted\n"),
        ("0", 0, ""),
        ("75", 75, ""),
    ],
)
def test_exit_codes(capsys, kind, code, text):
    assert run("program", COMMANDS, ["fail", kind]) == code
    assert capsys.readouterr() == ("", text)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["make", "--help"], ["make", *NEEDED, "-h"]]
)
def test_help_runs_nothing(capsys, arguments):
    calls.clear()
    assert run("program", COMMANDS, arguments) == 0
    assert calls == []
    text, errors = capsys.readouterr()
    assert errors == ""
    assert "Make something." in text
    assert not re.search(r"Posix|Optional|'program'", text)
    if arguments[0] == "make":
        assert "The text to read." in text
        assert "Type: one of none, static\n" in text


def test_the_completion_script(capsys):
    assert run("program", COMMANDS, ["--", "--completion"]) == 0
    script = capsys.readouterr().out
    assert "complete -F" in script
    assert "make" in script
    assert "--input" in script


class WordedError(OSError):
    code = "text"


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError(), 2), (FileNotFoundError(), 2), (RuntimeError(), 1), (CodedError(), 3),
     (WordedError(), 2), (AssertionError(), 1)],
)  # fmt: skip
def test_the_exit_code_of_an_exception(error, code, capsys):
    """`status.json` and the program use the same function."""

    def failing() -> None:
        raise error

    assert exit_code_of(error) == code
    if code != 1:
        assert run("program", failing, []) == code
    capsys.readouterr()


PRINTS = """
from bertds.cli import can_print, run

def show(text: str) -> None:
    print(text, can_print("█"), can_print("한글"))

raise SystemExit(run("program", show, ["--text=한글 ▁ \\udcff"]))
"""


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "한글 ▁ ".encode() + b"\xff True True\n"),
        ("euc-kr", "한글 ".encode("euc-kr") + b"\\u2581 \xff False True\n"),
        ("ascii", b"\\ud55c\\uae00 \\u2581 \xff False False\n"),
    ],
)
def test_every_text_can_be_printed_in_every_locale(encoding: str, expected: bytes) -> None:
    """What the encoding lacks is an escape; the bytes of a path stay as they are."""
    variables = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", PRINTS]
    done = subprocess.run(command, capture_output=True, check=True, env=variables)
    assert done.stdout == expected


def test_a_name_that_is_no_utf_8_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it must be written into a file."""

    def write(text: str) -> None:
        text.encode()

    assert run("program", write, ["--text=a\udcffb"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(r"program: '\udcff' cannot be written in the encoding utf-8")
    assert "PYTHONUTF8=1" in message
    assert message.count("\n") == 1
