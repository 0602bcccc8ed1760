"""Flatten nested settings to one mapping: {"optimizer.params.lr": 0.0005}."""

from collections.abc import Mapping
from typing import Any


def flatten(settings: Mapping[str, Any], *, expand_lists: bool = False) -> dict[str, Any]:
    """Map the path of each leaf to its value; empty blocks disappear.

    Args:
        settings: Blocks within blocks.
        expand_lists: Whether to expand lists of blocks too: "data.train[0].name".
    """
    flat: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, child in value.items():
                add(f"{path}.{key}" if path else key, child)
        elif (
            expand_lists and isinstance(value, list) and any(isinstance(v, Mapping) for v in value)
        ):
            for index, child in enumerate(value):
                add(f"{path}[{index}]", child)
        else:
            flat[path] = value

    add("", settings)
    return flat
