"""Command lines by `fire`, without its two habits that hurt.

Fire runs a function first and complains of a misspelt flag afterwards, and it reads values as
Python (`5e-4` becomes a float, `[MASK]` a list, `# …` vanishes). Here the arguments are checked
first, fire only binds them to a recording stand-in, every value verbatim as text, and the command
runs after fire has consumed every argument. Values are then converted by the annotations of the
function. A user's error is one sentence on standard error and an exit code: 2, or the `code` that
the exception carries.
"""

import contextlib
import difflib
import functools
import inspect
import io
import logging
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fire
from fire.core import FireExit
from fire.decorators import SetParseFn

from bertds.errors import ExitCode, exit_code_of

Command = Callable[..., int | None]
_NO_SEPARATOR = "\0"  # fire's own is `-`, which must stay a value: standard input
_BOOLEANS = {"true": True, "false": False}


def run(name: str, commands: dict[str, Command] | Command, argv: list[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
        name: The program as its user calls it, for messages: `python -m data_prep`.
        commands: The functions by name, or the only one. Each parameter is annotated with str,
            int, float, bool, Path, a Literal, or one of these or None; those without a default
            may be given by position.
        argv: The arguments; those of the process if None.

    Returns:
        The exit code: what the command returned (None is 0), 2 for an error of its user or the
        `code` of the exception, 130 after an interrupt.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(name, commands, _without_local_rank(arguments))
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)  # noqa: T201
        return ExitCode.INTERRUPTED
    except (ValueError, OSError) as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        print(f"{name}: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        return exit_code_of(error)


def _run(name: str, commands: dict[str, Command] | Command, arguments: list[str]) -> int:
    if callable(commands):
        return _run_one(name, commands, [], arguments)
    if arguments[:1] in (["--help"], ["-h"]):
        return _help(name, commands, [])
    if arguments[:2] == ["--", "--completion"]:
        fire.Fire(commands, arguments, name)  # what a shell sources
        return 0
    command = _known_command(arguments, commands)
    return _run_one(name, commands[command], [command], arguments[1:])


def _run_one(name: str, function: Command, path: list[str], arguments: list[str]) -> int:
    """Bind the arguments by fire, then run the function; `path` is how fire finds it."""
    if {"--help", "-h"} & set(arguments):
        return _help(name, {path[0]: function} if path else function, path)
    calls: list[Callable[[], int | None]] = []
    recorder = _recorder(function, calls)
    bound = [f"--{flag}={value}" for flag, value in _bind(function, arguments).items()]
    fire.Fire(
        {path[0]: recorder} if path else recorder,
        [*path, *bound, "--", f"--separator={_NO_SEPARATOR}"],
        name,
    )
    (call,) = calls
    code = call()
    return 0 if code is None else code


def _recorder(function: Command, calls: list[Callable[[], int | None]]) -> Command:
    """A stand-in with the function's signature that only records the call."""

    @functools.wraps(function)
    def record(*args: str, **kwargs: str) -> None:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        texts = {flag: text for flag, text in given.items() if isinstance(text, _Text)}
        calls.append(functools.partial(function, **_convert(function, texts)))

    recorder: Command = SetParseFn(_Text)(record)
    return recorder


class _Text(str):
    """A value as the user wrote it; fire also passes the defaults of what was not given."""

    __slots__ = ()


def _help(name: str, component: dict[str, Command] | Command, path: list[str]) -> int:
    """Fire's help as text on standard output, types and defaults as a user writes them."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
        try:
            fire.Fire(component, [*path, "--", "--help"], name)
            code = 0
        except FireExit as ended:
            code = int(ended.code)
    text = page.getvalue().replace(f"'{name}'", name)
    text = re.sub(r"\w+Path\('(.*?)'\)", r"\1", text)
    text = re.sub(r"Optional\[(.*?)(?: \| None)?\]", r"\1, or not given", text)
    for function in [component] if callable(component) else component.values():
        text = _with_choices(text, function)
    print(text.replace("Default: ''", "Default: none"), end="")  # noqa: T201
    return code


def _with_choices(text: str, function: Command) -> str:
    """Help that names what a Literal's flag takes, where fire says `Literal`."""
    for name, hint in typing.get_type_hints(function).items():
        if typing.get_origin(hint) is typing.Literal:
            choices = ", ".join(typing.get_args(hint))
            flag = f"--{name}={name.upper()}\n"
            text = re.sub(rf"({flag}\s*Type: )Literal", rf"\g<1>one of {choices}", text)
    return text


def _without_local_rank(arguments: list[str]) -> list[str]:
    """The arguments without the `--local_rank=N` that launchers add."""
    kept: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position].replace("-", "_")
        if argument == "__local_rank":
            position += 2
        elif argument.startswith("__local_rank="):
            position += 1
        else:
            kept.append(arguments[position])
            position += 1
    return kept


def _known_command(arguments: list[str], commands: dict[str, Command]) -> str:
    if arguments and arguments[0] in commands:
        return arguments[0]
    known = ", ".join(commands)
    if not arguments:
        raise ValueError(f"name a command: {known} (--help tells more)")
    nearest = _nearest(arguments[0], list(commands))
    raise ValueError(f"there is no command {arguments[0]!r}{nearest}; the commands are {known}")


def _bind(function: Command, arguments: list[str]) -> dict[str, str]:
    """The text given for each parameter, by flag or by position.

    Raises:
        ValueError: A flag is unknown, given twice or without a value; an argument is too much,
            or a required one missing.
    """
    parameters = inspect.signature(function).parameters
    given: dict[str, str] = {}
    loose: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not re.match(r"--.|-[a-zA-Z](=|$)", argument):
            loose.append(argument)
            continue
        flag, value = _flag_and_value(function, argument, rest)
        if flag in given:
            raise ValueError(f"--{flag} is given twice, once is wanted")
        given[flag] = value
    required = [key for key, each in parameters.items() if each.default is each.empty]
    open_ones = [key for key in required if key not in given]
    if len(loose) > len(open_ones):
        extra = loose[len(open_ones)]
        raise ValueError(f"the argument {extra!r} is too much; the flags are {_flags(function)}")
    if len(loose) < len(open_ones):
        raise ValueError(f"--{open_ones[len(loose)]} is missing and has no default")
    return given | dict(zip(open_ones, loose, strict=True))


def _flag_and_value(function: Command, argument: str, rest: list[str]) -> tuple[str, str]:
    """The parameter that a flag names, and its value, taken from `rest` if it stands alone."""
    text, equals, value = argument.lstrip("-").partition("=")
    flag = text.replace("-", "_")
    hints = typing.get_type_hints(function)
    names = list(inspect.signature(function).parameters)
    if flag.startswith("no") and hints.get(flag[2:]) is bool and not equals:
        return flag[2:], "false"
    shortened = [name for name in names if len(flag) == 1 and name.startswith(flag)]
    if flag not in names and len(shortened) == 1:
        (flag,) = shortened
    if flag not in names:
        nearest = _nearest(f"--{flag}", [f"--{name}" for name in names])
        raise ValueError(
            f"there is no flag {argument.partition('=')[0]}{nearest}; "
            f"the flags are {_flags(function)}"
        )
    if equals:
        return flag, value
    if hints[flag] is bool:
        return flag, rest.pop(0) if rest and rest[0].lower() in _BOOLEANS else "true"
    if not rest or rest[0].startswith("--"):
        raise ValueError(f"--{flag} needs a value (write --{flag}=VALUE)")
    return flag, rest.pop(0)


def _flags(function: Command) -> str:
    names = [f"--{name}" for name in inspect.signature(function).parameters]
    return ", ".join(names) if names else "none"


def _nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f", did you mean {near[0]}?" if near else ""


def _convert(function: Command, given: Mapping[str, str]) -> dict[str, Any]:
    hints = typing.get_type_hints(function)
    return {flag: _converted(flag, text, hints[flag]) for flag, text in given.items()}


def _converted(flag: str, text: str, hint: Any) -> Any:
    """A value of the annotated type.

    Raises:
        ValueError: The text does not read as one.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise ValueError(f"--{flag} is {text!r}, wanted is one of {', '.join(choices)}")
        return text
    if hint is str:
        return text
    readers: dict[Any, tuple[Callable[[str], Any], str]] = {
        Path: (_path, "a path"),
        int: (int, "a whole number"),
        float: (_finite, "a number"),
        bool: (lambda word: _BOOLEANS[word.lower()], "true or false"),
    }
    reader, wanted = readers[hint]
    try:
        return reader(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"--{flag} is {text!r}, wanted is {wanted}") from error


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text).expanduser()


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
