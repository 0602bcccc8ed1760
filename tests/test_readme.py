"""The README tells every key of the `bertds` block, in the words of `bertds/case/config.py`."""

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bertds.case import config

ROOT = Path(__file__).resolve().parents[1]
BLOCKS: list[tuple[str, type[BaseModel]]] = [
    ("model.", config.ModelConfig),
    ("data.", config.DataConfig),
    ("data.train[].", config.TrainSet),
    ("data.valid.NAME.", config.ValidSet),
    ("masking.", config.MaskingConfig),
    ("run.", config.RunConfig),
    ("run.mlflow.", config.MlflowConfig),
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
            rows.append(f"| `{prefix}{name}` | {default} | {meaning} |")
    return "\n".join(rows)


def test_every_key_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = text.split("by a test -->\n")[1].split("\n<!-- end of keys -->")[0]
    assert between == key_table()


def test_every_case_file_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "ds_configs").glob("*.json"):
        arms = json.loads(path.read_text())["bertds"].get("arms", {})
        assert all(f"`{arm}`" in text for arm in arms), path
