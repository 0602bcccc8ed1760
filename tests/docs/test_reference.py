"""The pages of the documentation agree with the code and link to files that exist."""

import json
import re
from pathlib import Path

import pytest

from bertds.config.case import list_arms, read_case
from docs import generate_reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIG_PAGE = ROOT / "docs" / "reference" / "config.md"
CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", generate_reference.PAGES, ids=lambda path: path.name)
def test_generated_pages_equal_the_code(path):
    page = path.read_text(encoding="utf-8")
    assert generate_reference.generate(page) == page, "run python -m docs.generate_reference"


def test_a_changed_default_makes_the_page_stale(monkeypatch):
    page = CONFIG_PAGE.read_text(encoding="utf-8")
    field = generate_reference.schema.RunConfig.model_fields["keep_last"]
    monkeypatch.setattr(field, "default", 3)
    assert generate_reference.generate(page) != page


def test_every_generated_part_is_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in generate_reference.PAGES)
    parts = [part["name"] for part in generate_reference.PART.finditer(text)]
    assert sorted(parts) == sorted(generate_reference.PARTS)


@pytest.mark.parametrize("part", ["bertds-keys", "commands"])
def test_every_key_and_flag_has_a_meaning(part):
    rows = re.findall(r"^\| `.*\|$", generate_reference.PARTS[part](), re.MULTILINE)
    assert len(rows) > 60
    assert not [row for row in rows if row.endswith("|  |")]


def test_every_unit_belongs_to_a_key():
    blocks = [
        *generate_reference.BERTDS_BLOCKS.values(),
        *generate_reference.DEEPSPEED_BLOCKS.values(),
        *generate_reference.optimizer_schema.OPTIMIZERS.values(),
        *generate_reference.optimizer_schema.SCHEDULERS.values(),
    ]
    keys = {key for block in blocks for key in block.model_fields}
    assert generate_reference.UNITS.keys() <= keys


def test_every_arm_of_every_case_file_is_listed():
    lines = CONFIG_PAGE.read_text(encoding="utf-8").splitlines()
    for path in (ROOT / "ds_configs").glob("*.json"):
        (row,) = [line for line in lines if line.startswith(f"| `{path.name}` |")]
        assert all(f"`{arm.name}`" in row for arm in list_arms(path)), path


def test_the_example_of_the_config_page_is_a_case_file(tmp_path):
    blocks = CODE_BLOCK.findall(CONFIG_PAGE.read_text(encoding="utf-8"))
    (example,) = [text for language, text in blocks if language == "json"]
    path = tmp_path / "example.json"
    path.write_text(example)
    ratios = [read_case(path, arm.name).bertds.masking.ratio for arm in list_arms(path)]
    assert ratios == [0.15, 0.3]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere_and_json_is_json(path):
    text = path.read_text(encoding="utf-8")
    for link in links_in(text):
        target, _, fragment = link.partition("#")
        page = path.parent / target if target else path
        assert page.exists(), link
        if fragment and page.suffix == ".md":
            assert fragment in anchors_in(page.read_text(encoding="utf-8")), link
    for language, block in CODE_BLOCK.findall(text):
        if language == "json":
            json.loads(block)


@pytest.mark.parametrize("folder", ["reference", "internals", "development"])
def test_files_and_names_of_the_code_exist(folder):
    """A page names a file as `bertds/...`, and a definition as `name` in `bertds/...`."""
    for page in (ROOT / "docs" / folder).glob("*.md"):
        text = page.read_text(encoding="utf-8")
        paths = re.findall(r"`((?:bertds|benchmarks|data_prep|launch|tests)/[\w./-]+)`", text)
        assert not [path for path in paths if not (ROOT / path).exists()], page
        for name, path in re.findall(r"`([\w.]+)`\s+in\s+`(bertds/\w[\w/]*\.py)`", text):
            definition = rf"^\s*(def |class ){name.split('.')[-1]}\b|^{name}\b.*="
            code = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(definition, code, re.MULTILINE), f"{page}: {name} in {path}"


def links_in(text: str) -> list[str]:
    """The targets of links and images, without URLs and code."""
    plain = re.sub(r"`[^`\n]*`", "", CODE_BLOCK.sub("", text))
    links = re.findall(r"\]\(<?([^)\s>]+)>?\)", plain)
    return [link for link in links if not re.match(r"[a-z]+:", link)]


def anchors_in(text: str) -> set[str]:
    """The anchors of the headings."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_and_anchors_are_found():
    text = "[a](b.md) ![c](d.png) `[e](f)` [g](https://h) [i](#j)\n```\n[k](l)\n```\n## A `b` c!\n"
    assert links_in(text) == ["b.md", "d.png", "#j"]
    assert anchors_in(text) == {"a-b-c"}
