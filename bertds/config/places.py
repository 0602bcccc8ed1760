"""Where a key belongs in a case file, for a key that stands in another block."""

import difflib
from collections.abc import Iterator

from pydantic import BaseModel

from bertds.config.deepspeed_schema import CaseFile
from bertds.config.messages import block_of
from bertds.config.optimizer_schema import OPTIMIZERS, SCHEDULERS

_MAX_PLACES = 3
_NEAR = 0.8


def places_of(name: str) -> list[str]:
    """List the paths of a key, by its last name; none if it has many, such as `enabled`."""
    places = [path for path in _paths() if path.rpartition(".")[2] == name]
    return places if len(places) <= _MAX_PLACES else []


def places_near(name: str) -> list[str]:
    """List the paths of the key whose last name is most similar; none if it has many."""
    names = {path.rpartition(".")[2] for path in _paths()}
    near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=_NEAR)
    return places_of(near[0]) if near else []


def _paths() -> list[str]:
    """Every path of a case file, without those inside lists and named blocks."""
    paths = [*_paths_of(CaseFile), "bertds.arms"]
    for key, blocks in (("optimizer", OPTIMIZERS), ("scheduler", SCHEDULERS)):
        paths += [
            f"{key}.params.{name}" for block in blocks.values() for name in block.model_fields
        ]
    return list(dict.fromkeys(paths))


def _paths_of(block: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in block.model_fields.items():
        yield f"{prefix}{name}"
        inner = block_of(field.annotation)
        if inner is not None:
            yield from _paths_of(inner, f"{prefix}{name}.")
