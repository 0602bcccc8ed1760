"""Every key of every shipped case file, mutated: the error message names it.

These mistakes are found before a process group exists, so they cost no GPU time.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertds.config.case import list_arms, read_case
from bertds.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"
FILES = sorted(path.name for path in CONFIGS.glob("*.json"))
REMEDY = re.compile(
    r"expected|did you mean|unknown key|add it|give |choose|set |leave|lower|enable|remove"
)


KeyPath = tuple[str | int, ...]
Mutation = tuple[str, KeyPath, Any]


# Any text is valid here, "auto" as well.
TEXTS = {"title", "name"}


def leaves(content: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """All values that are not blocks, without the arms."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key != "arms":
                yield from leaves(value, (*path, key))
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        for number, value in enumerate(content):
            yield from leaves(value, (*path, number))
    else:
        yield path, content


def mutations_of(content: Any) -> Iterator[Mutation]:
    """Kind, path, and the new value (or the old one, under the misspelled key)."""
    for path, value in leaves(content):
        yield "misspelled", (*path[:-1], misspelled(str(path[-1]))), value
        yield "a block", path, {"value": value}
        if path[-1] not in TEXTS:
            yield "auto", path, "auto"
        if isinstance(value, bool):
            yield "a number", path, 1
        elif isinstance(value, int | float):
            yield "a string", path, str(value)
            yield "negative", path, -1 - value
            yield "infinite", path, float("inf")
        elif isinstance(value, str):
            yield "a number", path, 3.5


def misspelled(key: str) -> str:
    return key[:2] + key[3:] if len(key) > 4 else f"{key}x"


def mutated(content: Any, kind: str, path: KeyPath, value: Any) -> Any:
    changed = copy.deepcopy(content)
    block = changed
    for part in path[:-1]:
        block = block[part]
    if kind == "misspelled":
        (original,) = [key for key in block if misspelled(str(key)) == path[-1]]
        del block[original]
    block[path[-1]] = value
    return changed


def files_with_other_keys() -> Iterator[str]:
    """The files that together have every key of all files."""
    seen: set[tuple[KeyPath, str]] = set()
    for name in FILES:
        content = json.loads((CONFIGS / name).read_text())
        keys = {(path, type(value).__name__) for path, value in leaves(content)}
        if not keys <= seen:
            yield name
        seen |= keys


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """All shipped files, for arms that are runs of another case."""
    for name in FILES:
        (tmp_path / name).write_bytes((CONFIGS / name).read_bytes())
    return tmp_path


def rejection(file: Path) -> str:
    """The error message about a file."""
    with pytest.raises(ConfigError) as rejected:
        for arm in list_arms(file):
            if arm.path == file:
                read_case(file, arm.run_arm)
    assert rejected.value.code == 2
    return str(rejected.value)


@pytest.mark.parametrize("name", list(files_with_other_keys()))
def test_every_mutation_is_rejected_with_key_value_and_remedy(name: str, directory: Path) -> None:
    """Misspelled, of another type, `auto`, negative, infinite: about 150 for each file."""
    content = json.loads((CONFIGS / name).read_text())
    mutations = list(mutations_of(content))
    for kind, path, value in mutations:
        (directory / name).write_text(json.dumps(mutated(content, kind, path, value)))
        message = rejection(directory / name)
        assert "\n" not in message, (kind, path)
        if kind != "infinite":  # not JSON: rejected before there are keys
            assert str(path[-1]) in message, (kind, path, message)
        assert REMEDY.search(message), (kind, path, message)
        if kind not in ("misspelled", "infinite", "a block"):
            assert json.dumps(value) in message, (kind, path, message)
    assert len(mutations) > 100


REQUIRED = (
    *("train_batch_size", "gradient_clipping", "optimizer", "optimizer.params"),
    *("optimizer.params.lr", "optimizer.params.weight_decay", "bertds", "bertds.model"),
    *("bertds.model.hidden_size", "bertds.data", "bertds.data.train", "bertds.run"),
)


def test_a_missing_key_is_named(directory: Path) -> None:
    name = "bert_base.json"
    for key in REQUIRED:
        content = json.loads((CONFIGS / name).read_text())
        *blocks, last = key.split(".")
        block = content
        for part in blocks:
            block = block[part]
        del block[last]
        (directory / name).write_text(json.dumps(content))
        message = rejection(directory / name)
        assert last in message
        assert "missing" in message or "has no block" in message
