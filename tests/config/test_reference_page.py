"""The README tells every key of the `bertds` block, in the words of `bertds/case/config.py`."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bertds.config import schema

ROOT = Path(__file__).resolve().parents[2]
BLOCKS: list[tuple[str, type[BaseModel]]] = [
    ("model.", schema.ModelConfig),
    ("data.", schema.DataConfig),
    ("data.train[].", schema.TrainSet),
    ("data.valid.NAME.", schema.ValidSet),
    ("masking.", schema.MaskingConfig),
    ("run.", schema.RunConfig),
    ("run.mlflow.", schema.MlflowConfig),
]


def key_table() -> str:
    """The table as it must stand in the README."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for prefix, block in BLOCKS:
        for name, field in block.model_fields.items():
            default = "required"
            if field.default is not PydanticUndefined:
                default = "" if field.default is None else f"`{json.dumps(field.default)}`"
            meaning = " ".join((field.description or "").split())
            assert meaning, f"{prefix}{name} has no docstring"
            if choices := choices_of(block.model_json_schema()["properties"][name]):
                meaning += f" Values: {', '.join(f'`{json.dumps(one)}`' for one in choices)}."
            rows.append(f"| `{prefix}{name}` | {default} | {meaning} |")
    return "\n".join([*rows, "", *presets()])


def choices_of(schema: dict[str, Any]) -> list[str]:
    """What a key, or a member of its list, may be, if that is a choice of texts."""
    kinds = [one.get("items", one) for one in schema.get("anyOf", [schema])]
    found: list[str] = next((one["enum"] for one in kinds if "enum" in one), [])
    return found


def presets() -> list[str]:
    """What each preset sets, but for what is the default anyway."""
    defaults = {name: field.default for name, field in schema.ModelConfig.model_fields.items()}
    rows = ["| preset | what it sets instead of the default |", "|---|---|"]
    for name, fields in schema.PRESETS.items():
        own = [f"`{key}` {json.dumps(v)}" for key, v in fields.items() if v != defaults[key]]
        rows.append(f"| `{name}` | {', '.join(own) or 'nothing'} |")
    return rows


def test_every_key_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = text.split("by a test -->\n")[1].split("\n<!-- end of keys -->")[0]
    assert between == key_table()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in headings}
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif "://" not in link:
            assert (ROOT / link.partition("#")[0]).exists(), link


def test_every_case_file_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "ds_configs").glob("*.json"):
        arms = json.loads(path.read_text())["bertds"].get("arms", {})
        assert all(f"`{arm}`" in text for arm in arms), path
