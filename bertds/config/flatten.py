"""Nested settings as one flat mapping: {"optimizer.params.lr": 0.0005}."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(settings: Mapping[str, Any], *, expand_lists: bool = False) -> dict[str, Any]:
    """Map the path of each leaf to its value; empty blocks vanish.

    Args:
        settings: Blocks within blocks.
        expand_lists: Whether lists of blocks are expanded too: "data.train[0].name".
    """
    return {
        path: value
        for key, child in settings.items()
        for path, value in _leaves(key, child, expand_lists=expand_lists)
    }


def _leaves(path: str, value: Any, *, expand_lists: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        children = [(f"{path}.{key}", child) for key, child in value.items()]
    elif expand_lists and isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(value)]
    else:
        yield path, value
        return
    for child_path, child in children:
        yield from _leaves(child_path, child, expand_lists=expand_lists)
