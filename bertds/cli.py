"""Command lines with `fire`, whose habits that hurt are prevented here.

Fire calls a function before it rejects a misspelled flag, and reads values as Python: `5e-4` becomes
a float, `[MASK]` a list, and `# …` vanishes. A flag without a value becomes true, the last of two
equal flags wins, a switch takes the next word as its value, and a superfluous word fills an optional
parameter. So the arguments are checked here and given to fire as `--flag=value`; fire converts them
with the functions below, by annotation, and calls the command. It also writes help and completion.

A user's error is one line on standard error and an exit code: 2, or the `code` of the exception.
"""

import codecs
import contextlib
import difflib
import functools
import inspect
import io
import keyword
import logging
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import fire
from fire.core import FireExit
from fire.decorators import SetParseFns

from bertds.errors import NO_ROOM, ExitCode, ProblemsError, exit_code_of

Command = Callable[..., int | None]
_MERGED_FLAGS = ("set",)
"""Flags that may be repeated; their values are joined with commas."""
_BOOLEANS = {"true": True, "false": False}
_ERRORS = "bertds.escape"


def run(
    name: str,
    commands: dict[str, Command] | Command,
    argv: list[str] | None = None,
    *,
    ignored_flags: Mapping[str, type] | None = None,
) -> int:
    """Run the command that the arguments name.

    Args:
        name: The program as the user calls it, for messages: `python -m data_prep`.
        commands: The functions by name, or the only one. Each parameter is annotated with str, int,
            float, bool, Path, a Literal, or one of these or None. Parameters without a default may
            be given by position. `*names` takes all further positions, and is no flag. A parameter
            that ends with an underscore is a flag without it: `from_` is `--from`.
        argv: The arguments; those of the process if None.
        ignored_flags: Further flags, by name, with the type of their values; they are checked and
            then ignored.

    Returns:
        The exit code: what the command returned (None is 0); 2, or the `code` of the exception,
        after a user's error; 130 after an interrupt.
    """
    arguments = _without_local_rank(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ERRORS)
    try:
        if callable(commands):
            return _run_command(name, commands, [], arguments, ignored_flags or {})
        if arguments[:1] in (["--help"], ["-h"]):
            return _help(name, commands, [])
        if arguments[:2] == ["--", "--completion"]:
            fire.Fire(commands, arguments, name)  # the script that a shell sources
            return ExitCode.SUCCESS
        known = ", ".join(commands)
        if not arguments:
            raise ValueError(f"no command is given, expected one of {known} (--help for details)")
        command, *arguments = arguments
        if command not in commands:
            near = _nearest(command, commands)
            raise ValueError(f"there is no command {command!r}{near}; the commands are {known}")
        return _run_command(name, commands[command], [command], arguments, ignored_flags or {})
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)  # noqa: T201
        return ExitCode.INTERRUPTED
    except (ValueError, OSError) as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        print(f"{name}: {_message(error)}", file=sys.stderr)  # noqa: T201
        return exit_code_of(error)


def _message(error: ValueError | OSError) -> str:
    """One line for the user; one for each problem if there are several."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        # A command may have a better remedy, which it adds to the message.
        is_full = error.errno in NO_ROOM and error.strerror == os.strerror(error.errno)
        remedy = ": free space there, or choose another directory" if is_full else ""
        return f"{error.filename}: {error.strerror}{remedy}"
    if isinstance(error, UnicodeEncodeError):
        text = error.object[error.start : error.end]
        return (
            f"{text!a} cannot be written in the encoding {error.encoding}: name files and "
            "write flags in UTF-8, and set the environment variable PYTHONUTF8=1"
        )
    lines = str(error).splitlines() if isinstance(error, ProblemsError) else [str(error)]
    return "\n  ".join(" ".join(line.split()) for line in lines) or type(error).__name__


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    """Encode what standard output lacks: the bytes of a path as they are, letters as escapes."""
    assert isinstance(error, UnicodeEncodeError)
    parts = [
        letter.encode(
            "ascii", "surrogateescape" if "\udc80" <= letter <= "\udcff" else "backslashreplace"
        )
        for letter in error.object[error.start : error.end]
    ]
    return b"".join(parts), error.end


codecs.register_error(_ERRORS, _escape)


def can_print(text: str) -> bool:
    """Whether standard output has these characters; others are printed as escapes."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _without_local_rank(arguments: list[str]) -> list[str]:
    """Remove the `--local_rank=N` that launchers add."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.replace("-", "_").partition("=")
        if flag != "__local_rank":
            kept.append(argument)
        elif not equals:
            next(rest, None)
    return kept


def _run_command(
    name: str, function: Command, path: list[str], arguments: list[str], ignored: Mapping[str, type]
) -> int:
    """Check the arguments, then let fire convert them and call the function at `path`."""
    if {"--help", "-h"} & set(arguments):
        return _help(name, {path[0]: function} if path else function, path)
    own = typing.get_type_hints(function)
    rest = _rest_parameter(function)
    rest_hint = own.pop(rest, str)
    hints = {**ignored, **own}
    values, further = _parse(function, hints, arguments)
    for flag in values.keys() - own.keys():
        _convert(flag, hints[flag], values.pop(flag))
    others = [_convert(rest, rest_hint, text) for text in further]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> int | None:
        return function(*args, *others, **kwargs)

    converters = {flag: functools.partial(_convert, flag, hint) for flag, hint in own.items()}
    command = SetParseFns(**converters)(call)
    code: int | None = fire.Fire(
        {path[0]: command} if path else command,
        [*path, *(f"--{flag}={value}" for flag, value in values.items())],
        name,
        serialize=lambda _: None,  # fire would print the exit code
    )
    return ExitCode.SUCCESS if code is None else code


def _rest_parameter(function: Command) -> str:
    """The name of the parameter that takes all further positions; empty if there is none."""
    parameters = inspect.signature(function).parameters.values()
    return next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), "")


def _parse(
    function: Command, hints: Mapping[str, Any], arguments: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Assign the arguments to flags, by name or by position.

    Returns:
        The values by flag, and the arguments for `*names`.

    Raises:
        ValueError: A flag is unknown, duplicate or without a value; an argument is superfluous, or
            a required one missing.
    """
    values: dict[str, str] = {}
    positional: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not re.match(r"--.|-[a-zA-Z](=|$)", argument):
            positional.append(argument)
            continue
        flag, value = _parse_flag(hints, argument, rest)
        if flag in values and flag in _MERGED_FLAGS:
            value = f"{values[flag]},{value}"
        elif flag in values:
            raise ValueError(f"{_shown(flag)} is given twice: remove one")
        values[flag] = value
    parameters, takes_more = inspect.signature(function).parameters, _rest_parameter(function)
    required = [flag for flag, each in parameters.items() if each.default is each.empty]
    missing = [flag for flag in required if flag not in values and flag != takes_more]
    further = positional[len(missing) :]
    if further and not takes_more:
        raise ValueError(
            f"the argument {further[0]!r} is superfluous; the flags are {_flags(hints)}"
        )
    if len(positional) < len(missing):
        raise ValueError(f"{_shown(missing[len(positional)])} is missing and has no default")
    return values | dict(zip(missing, positional, strict=False)), further


def _parse_flag(hints: Mapping[str, Any], argument: str, rest: list[str]) -> tuple[str, str]:
    """Return the name of a flag and its value, which may be the first of `rest`."""
    text, equals, value = argument.lstrip("-").partition("=")
    flag = text.replace("-", "_")
    flag = f"{flag}_" if keyword.iskeyword(flag) else flag
    if flag.startswith("no") and hints.get(flag[2:]) is bool and not equals:
        return flag[2:], "false"
    names = [name for name in hints if name != "return"]
    by_letter = [name for name in names if len(flag) == 1 and name.startswith(flag)]
    if flag not in names and len(by_letter) == 1:
        flag = by_letter[0]
    if flag not in names:
        near = _nearest(_shown(flag), map(_shown, names))
        given = argument.partition("=")[0]
        raise ValueError(f"there is no flag {given}{near}; the flags are {_flags(hints)}")
    if equals:
        return flag, value
    if hints[flag] is bool:
        return flag, rest.pop(0) if rest and rest[0].lower() in _BOOLEANS else "true"
    if not rest or rest[0].startswith("--"):
        raise ValueError(f"{_shown(flag)} needs a value (write {_shown(flag)}=VALUE)")
    return flag, rest.pop(0)


def _flags(hints: Mapping[str, Any]) -> str:
    return ", ".join(_shown(name) for name in hints if name != "return") or "none"


def _shown(flag: str) -> str:
    """A flag as a user writes it."""
    return f"--{flag.rstrip('_')}"


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _convert(flag: str, hint: Any, text: str) -> Any:
    """Convert a value to the annotated type.

    Raises:
        ValueError: The value is not of this type.
    """
    hint = _without_none(hint)
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise ValueError(f"{_shown(flag)} is {text!r}, expected one of {', '.join(choices)}")
        return text
    converters: dict[Any, tuple[Callable[[str], Any], str]] = {
        str: (str, "a string"),
        Path: (_path, "a path"),
        int: (int, "a whole number"),
        float: (_finite, "a number"),
        bool: (lambda word: _BOOLEANS[word.lower()], "true or false"),
    }
    converter, expected = converters[hint]
    try:
        return converter(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{_shown(flag)} is {text!r}, expected {expected}") from error


def _without_none(hint: Any) -> Any:
    """The annotated type, without the None of a flag that may be left out."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return hint


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text).expanduser()


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _help(name: str, component: dict[str, Command] | Command, path: list[str]) -> int:
    """Print fire's help on standard output, with types and defaults as a user writes them."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
        try:
            fire.Fire(component, [*path, "--", "--help"], name)
            code = 0
        except FireExit as ended:
            code = int(ended.code)
    text = page.getvalue().replace(f"'{name}'", name).replace("Default: ''", "Default: none")
    text = re.sub(r"\w+Path\('(.*?)'\)", r"\1", text)
    text = re.sub(r"Optional\[(.*?)(?: \| None)?\]", r"\1, or not given", text)
    for function in [component] if callable(component) else component.values():
        for flag, hint in typing.get_type_hints(function).items():
            hint = _without_none(hint)
            if typing.get_origin(hint) is typing.Literal:  # fire shows `Literal` or `Optional` only
                choices = ", ".join(typing.get_args(hint))
                pattern = rf"(--{flag}={flag.upper()}\n\s*Type: )(?:Literal|Optional)"
                text = re.sub(pattern, rf"\g<1>one of {choices}", text)
            if flag.endswith("_"):
                text = re.sub(rf"\b{flag}\b", flag.rstrip("_"), text)
                text = re.sub(rf"\b{flag.upper()}\b", flag.rstrip("_").upper(), text)
    print(text, end="")  # noqa: T201
    return code
