"""`tokenizer` and `shard` print the same table: each line is kept, or dropped for one reason."""

import json
import re

import pytest

from bertds.cli import run
from data_prep.__main__ import COMMANDS


@pytest.fixture
def run_both(tmp_path, lines, capsys):
    """Runs both commands on records; returns the tables and the warnings of each."""
    (tmp_path / "text.txt").write_text("\n".join([*lines["ko"], *lines["en"]]))
    path = tmp_path / "tokenizer.json"
    arguments = ["tokenizer", f"--input={tmp_path}/text.txt", "--merges=200", f"--out={path}"]
    assert run("data_prep", COMMANDS, arguments) == 0

    def run_on(records, *flags):
        (tmp_path / "a.jsonl").write_text("\n".join(records))
        given = f"--input={tmp_path}/a.jsonl"
        results = []
        for arguments in (
            ["tokenizer", given, "--merges=9", f"--out={tmp_path}/new.json"],
            ["shard", given, f"--tokenizer={path}", f"--out={tmp_path}/out", "--workers=1", *flags],
        ):
            capsys.readouterr()
            assert run("data_prep", COMMANDS, arguments) == 0
            printed = capsys.readouterr()
            rows = re.findall(r"^ +([\d,]+)  (.*?)(?: \([\d.]+%\))?$", printed.out, re.MULTILINE)
            table = {label: int(count.replace(",", "")) for count, label in rows}
            results.append((table, [x for x in printed.err.split("\n") if "warning" in x]))
        return results

    return run_on


def test_each_line_is_kept_or_dropped_for_one_reason(run_both, lines):
    texts = [*lines["ko"], *lines["en"][:100]]
    records = [json.dumps({"text": text}) for text in [*texts, *texts[:20], " "]]
    (tokenizer, no_warning), (shard, _) = run_both([*records, "", '{"text": 5}', "no JSON"])
    read = len(records) + 3
    assert tokenizer == {
        "lines read": read,
        "kept": len(records) - 1,
        "dropped: blank lines": 2,
        "dropped: records without a text": 2,
    }
    assert no_warning == []
    dropped = {label: count for label, count in shard.items() if label.startswith("dropped: ")}
    assert dropped == {
        "dropped: blank lines": 2,
        "dropped: records without a text": 2,
        "dropped: duplicate lines": 20,
    }
    assert shard["lines read"] == read == shard["kept"] + sum(dropped.values())


def test_an_output_of_an_earlier_version_is_counted_as_well(run_both, tmp_path, lines):
    """Its manifest has no count of kept lines."""
    records = [json.dumps({"text": text}) for text in [*lines["ko"], *lines["ko"][:9]]]
    _, (before, _) = run_both(records)
    path = tmp_path / "out" / "made.json"
    manifest = json.loads(path.read_text())
    del manifest["counts"]["lines kept"]
    path.write_text(json.dumps(manifest))
    _, (after, _) = run_both(records)
    assert after == before
    assert after["kept"] == len(lines["ko"])


def test_more_than_a_tenth_dropped_is_a_warning_with_a_remedy(run_both, lines):
    records = [json.dumps({"text": text}) for text in lines["ko"]]
    for _, warnings in run_both([*records, *["{}"] * 60, *[""] * 999]):
        (warning,) = warnings
        assert f"60 of {len(records) + 60} lines" in warning
        assert "60 records without a text (name the field of the text with --column)" in warning


def test_text_that_the_tokenizer_does_not_know_is_a_warning(run_both, lines):
    records = [json.dumps({"text": text}) for text in [*lines["ko"], *["漢字仮名 ba"] * 60]]
    (_, (table, (warning,))) = run_both(records, "--nodedup")
    assert table["changed: lines of which more than a tenth is [UNK]"] == 60
    assert f"60 of {len(records)} lines" in warning
    assert "more than a tenth [UNK]: was the tokenizer trained on other text?" in warning
