"""Every key of every shipped case file, mutated: refused in one sentence that names it.

Files and data are all that is read before a process group exists, so what these refuse costs no
GPU a second.
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
    r"wanted|did you mean|unknown key|add it|give |choose|set |leave|lower|enable|neither a"
)


Place = tuple[str | int, ...]
Mutation = tuple[str, Place, Any]


# Keys whose place is a name of the user's choice, and those whose mutation is tested by itself.
FREE = {"arms", "valid"}
TEXTS = {"title", "name"}


def leaves(content: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Everything in a file that is no block, arms left out."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key != "arms":
                yield from leaves(value, (*place, key))
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        for number, value in enumerate(content):
            yield from leaves(value, (*place, number))
    else:
        yield place, content


def mutations_of(content: Any) -> Iterator[Mutation]:
    """What, where, and the value that stands there instead (or under the misspelt key)."""
    for place, value in leaves(content):
        yield "misspelt", (*place[:-1], misspelt(str(place[-1]))), value
        yield "a block", place, {"value": value}
        if place[-1] not in TEXTS:
            yield "automatic", place, "auto"
        if isinstance(value, bool):
            yield "a number", place, 1
        elif isinstance(value, int | float):
            yield "a text", place, str(value)
            yield "negative", place, -1 - value
            yield "endless", place, float("inf")
        elif isinstance(value, str):
            yield "a number", place, 3.5


def misspelt(key: str) -> str:
    return key[:2] + key[3:] if len(key) > 4 else f"{key}x"


def mutated(content: Any, what: str, place: Place, value: Any) -> Any:
    changed = copy.deepcopy(content)
    block = changed
    for part in place[:-1]:
        block = block[part]
    if what == "misspelt":
        (original,) = [key for key in block if misspelt(str(key)) == place[-1]]
        del block[original]
    block[place[-1]] = value
    return changed


def refusal(path: Path) -> str:
    """What is said of a file; it must be."""
    with pytest.raises(ConfigError) as refused:
        for arm in list_arms(path):
            if arm.path == path:
                read_case(path, arm.run_arm)
    assert refused.value.code == 2
    return str(refused.value)


@pytest.mark.parametrize("name", FILES)
def test_every_mutation_is_refused_with_key_value_and_remedy(name: str, tmp_path: Path) -> None:
    """Misspelt, of another type, `auto`, negative, infinite: some 150 for each file."""
    content = json.loads((CONFIGS / name).read_text())
    path, count = tmp_path / name, 0
    for other in FILES:  # for arms that are runs of another case
        (tmp_path / other).write_bytes((CONFIGS / other).read_bytes())
    for what, place, value in mutations_of(content):
        path.write_text(json.dumps(mutated(content, what, place, value)))
        said, count = refusal(path), count + 1
        assert "\n" not in said, (what, place)
        if what != "endless":  # no JSON: refused before there are keys
            assert str(place[-1]) in said, (what, place, said)
        assert REMEDY.search(said), (what, place, said)
        if what not in ("misspelt", "endless", "a block"):
            assert json.dumps(value) in said, (what, place, said)
    assert count > 100


@pytest.mark.parametrize("name", FILES)
def test_every_block_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    """Without it there is nothing to train, or DeepSpeed would do what nobody said."""
    content = json.loads((CONFIGS / name).read_text())
    path = tmp_path / name
    for other in FILES:
        (tmp_path / other).write_bytes((CONFIGS / other).read_bytes())
    for place in (
        *(("train_batch_size",), ("gradient_clipping",), ("optimizer",), ("optimizer", "params")),
        *(("optimizer", "params", "lr"), ("optimizer", "params", "weight_decay")),
        *(("bertds",), ("bertds", "model"), ("bertds", "model", "hidden_size"), ("bertds", "data")),
        *(("bertds", "data", "train"), ("bertds", "run")),
    ):
        changed = copy.deepcopy(content)
        block = changed
        for part in place[:-1]:
            block = block[part]
        del block[place[-1]]
        path.write_text(json.dumps(changed))
        said = refusal(path)
        assert str(place[-1]) in said
        assert "missing" in said or "has no block" in said
