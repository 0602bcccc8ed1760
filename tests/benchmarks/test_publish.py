"""The published reproduction: generated from committed metrics and hand-written verdicts, and checked."""

import gzip
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from benchmarks.reproduction.publish import collect, differences, main
from tests.helpers.fake_runs import config, lines_of, write_run, write_same
from tests.helpers.launching import ROOT

DEPTHS = {"layers2": 2.0, "layers6": 2.005, "layers10": 2.5}
VOCABULARY = config("vocabulary")
VOCABULARY["bertds"]["data"]["valid"] = {"en": {"name": "10k/en/valid"}}


def publish(root: Path, *flags: str) -> int:
    """Run the program on the pages and the metrics below a directory."""
    paths = [f"--docs={root / 'pages'}", f"--committed={root / 'committed'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["publish", *paths, *flags])
        return main()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Cases with one seed, and cases with three seeds, whose largest spread is 0.01."""
    runs = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        for arm, loss in (("dynamic", 3.0), ("static", 3.5)):
            lines = lines_of(20, loss=loss + seed * 0.005)
            write_run(runs / f"seed{seed}", "case4", arm, lines, config=config("masks"))
        write_run(runs / f"seed{seed}", "case11", "batch64", lines_of(20, loss=2 + seed * 0.001))
        write_run(runs / f"seed{seed}", "case8", "merges10k", lines_of(20), config=VOCABULARY)
    for arm, loss in DEPTHS.items():
        write_run(runs / "seed0", "case6", arm, lines_of(20, loss=loss), config=config("depth"))
        write_run(runs / "adamw", "case7", arm, lines_of(20, loss=loss - 1))
        write_same(runs / "seed0", "case7", arm, f"case6/{arm}")
    failed = {"state": "failed", "code": 4, "message": "NaN", "step": 5}
    write_run(runs / "seed0", "case9", "lr1", lines_of(20), status=failed)
    return runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of a text with 40 characters per line."""
    data = tmp_path_factory.mktemp("data")
    text, tokenizer = data / "text.txt", data / "tokenizer.json"
    text.write_text("".join(f"{number:019d} {number * 7:020d}\n" for number in range(1000)))
    commands = [
        ["tokenizer", f"--input={text}", "--merges=50", f"--out={tokenizer}"],
        ["shard", f"--input={text}", f"--tokenizer={tokenizer}", f"--out={data}/10k/en"],
    ]
    for command in commands:
        words = [sys.executable, "-m", "data_prep", *command]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return data


@pytest.fixture(scope="module")
def published(runs, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    assert publish(root, f"--runs={runs}", f"--data={data}") == 0
    return root


@pytest.fixture(scope="module")
def two_cases(tmp_path_factory):
    """Two published cases with one arm each: quick to generate again."""
    root = tmp_path_factory.mktemp("two_cases")
    for case in ("case5", "case6"):
        write_run(root / "runs/seed0", case, "layers2", lines_of(20))
    assert publish(root, f"--runs={root / 'runs'}", f"--data={root}") == 0
    return root


@pytest.fixture
def copy(two_cases, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(two_cases, tmp_path / "copy")


def test_arms_differ_only_beyond_twice_the_spread(published):
    text = (published / "pages/case6.md").read_text()
    by_loss = text[text.index("Valid loss: difference") : text.index("Valid acc: difference")]
    assert "exceeds 0.020, twice the spread" in by_loss
    cells = {row[0]: row[1:] for row in re.findall(r"`(\w+)` \| (.*?) \| (.*?) \|", by_loss)}
    assert cells["layers2"][0].startswith("best, ")
    assert cells["layers6"][0] == "+0.005 undecided"
    assert cells["layers10"][0] == "+0.500 decided"


def test_seeds_are_listed_side_by_side_and_variants_beside_the_shipped_case(published):
    text = (published / "pages/case4.md").read_text()
    losses = [f"{3.25 + s * 0.005 + 6 * math.exp(-4):.3f}" for s in range(3)]
    assert f"| `dynamic` | valid loss | {' | '.join(losses)} | {losses[1]} | 0.010 |" in text
    assert "(mean of 3 seeds). It is decided if it exceeds 0.020, twice the spread" in text
    assert "| `static` | +0.500 decided |" in text
    assert "spread of valid loss" in (published / "pages/index.md").read_text()
    beside = (published / "pages/case7.md").read_text().partition("### AdamW")[2]
    assert re.search(r"\| `layers2` \| 2\.360 \| 1\.360 \|", beside)


def test_the_index_lists_what_is_not_trained_yet(published):
    text = (published / "pages/index.md").read_text().partition("Not trained yet")[2]
    listed = dict(re.findall(r"^- (\w+) \(.*?\): (.*)$", text, re.MULTILINE))
    assert listed["seed0"].startswith("case1, case2, case3, case5, case6")
    assert listed["seed1"] == "case8, case11"
    assert listed["warmup"] == "case9"


def test_loss_becomes_bits_per_character(published, data):
    index = json.loads((data / "10k/en/valid/index.json").read_text())
    assert index["characters"] == 40 * index["lines"]
    table = (published / "pages/case8.md").read_text().partition("### Bits per character")[2]
    per_token, bits, baseline, gain = re.search(
        r"\| `merges10k` \| 2\.360 \| (\S+) \| (\S+) \| 0\.0000 \| (\S+) \| (\S+) \|", table
    ).groups()
    assert float(per_token) == pytest.approx(index["characters"] / index["tokens"], abs=1e-3)
    assert float(bits) == pytest.approx(2.3599 / math.log(2) / float(per_token), rel=1e-3)
    assert float(baseline) == pytest.approx(5.5 / math.log(2) / float(per_token), rel=1e-3)
    assert float(gain) == pytest.approx(float(baseline) - float(bits), abs=1e-3)


def test_only_finished_runs_are_published_and_every_link_has_a_target(published):
    pages = published / "pages"
    cases = [f"case{number}" for number in (4, 6, 7, 8, 11)]
    plots = {f"images/{case}_{name}.png" for case in cases for name in ("loss", "acc")}
    expected = {"index.md", *(f"{case}.md" for case in cases), *plots}
    files = {path.relative_to(pages).as_posix() for path in pages.rglob("*") if path.is_file()}
    assert files == expected
    links = {
        link.partition("#")[0]
        for page in pages.glob("*.md")
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text())
    }
    assert links == expected
    assert "## Interactive plots" in (pages / "index.md").read_text()


def test_hand_written_texts_are_preserved_and_part_of_the_check(copy, tmp_path, capsys):
    page, index = copy / "pages/case6.md", copy / "pages/index.md"
    text = page.read_text().partition("**Verdict:**")[0] + "**Verdict:** undecided, by loss.\n"
    page.write_text(text)
    (copy / "committed/summary.md").write_text("## Results\n\nMuch.\n")
    assert publish(copy, "--check") == 1
    assert capsys.readouterr().out.splitlines() == [
        "index.md: differs from what the committed metrics give"
    ]
    assert publish(copy) == 0
    assert page.read_text() == text
    written = index.read_text()
    assert "undecided, by loss." in written
    assert written.index("Much.") < written.index("| case |") < written.index("## Method")
    assert publish(copy, "--check", f"--report={tmp_path / 'report'}") == 0
    assert (tmp_path / "report/seed0/record.html").is_file()
    assert (tmp_path / "report/seed0/case6/case6_lr.png").is_file()


def test_the_total_run_time_of_a_variant_counts_a_shared_run_once(published):
    text = (published / "pages/index.md").read_text().partition("total run time")[2]
    counts = dict(re.findall(r"^\| (\w+) \|[^|]*\| (\d+) \|", text, re.MULTILINE))
    assert counts == {"seed0": "7", "seed1": "4", "seed2": "4", "adamw": "3"}


def test_the_check_names_the_files_that_the_metrics_do_not_give(copy, capsys):
    metrics = copy / "committed/runs/seed0/case6/layers2/metrics.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(metrics.read_bytes()).splitlines()]
    for line in lines:
        line["loss/train"] = line.get("loss/train", 0) + 1.0
    metrics.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in lines).encode()))
    (copy / "pages/old.md").touch()
    assert publish(copy, "--check") == 1
    output = capsys.readouterr().out
    assert "case6.md: differs from what the committed metrics give" in output
    assert "images/case6_loss.png: differs" in output
    assert "old.md: only published" in output
    assert "case5" not in output


def test_plots_of_different_sizes_differ(tmp_path):
    for name, height in (("published", 50), ("generated", 54)):
        (tmp_path / name).mkdir()
        matplotlib.image.imsave(tmp_path / name / "plot.png", np.zeros((height, 60, 3)))
    (message,) = differences(tmp_path / "published", tmp_path / "generated")
    assert message.startswith("plot.png: differs")
    assert differences(tmp_path / "published", tmp_path / "published") == []


def test_sizes_of_datasets_on_another_machine_are_kept(published, runs, tmp_path):
    sizes = (published / "committed/corpus.json").read_text()
    assert "10k/en/valid" in sizes
    (tmp_path / "corpus.json").write_text(sizes)
    collect(runs, tmp_path / "no data", tmp_path)
    assert (tmp_path / "corpus.json").read_text() == sizes


def test_an_arm_without_a_value_at_a_cost_is_not_compared_there(copy):
    """One arm is validated for the first time after another one has ended."""
    runs = copy / "committed/runs/seed0"
    shutil.rmtree(runs)
    for arm, steps, every in (("batch64", 400, 100), ("batch256", 100, 10), ("batch1024", 20, 10)):
        lines = lines_of(steps, loss=2 + 1 / steps, eval_every=every)
        run = write_run(runs, "case6", arm, lines)
        packed = gzip.compress((run / "metrics.jsonl").read_bytes())
        (run / "metrics.jsonl.gz").write_bytes(packed)
        (run / "metrics.jsonl").unlink()
    assert publish(copy) == 0
    decisions = (copy / "pages/case6.md").read_text().partition("## Differences")[2]
    assert "nan" not in decisions
    assert "| `batch64` | – | – | – | – |" in decisions
    assert decisions.count("best, ") == 2 * 4


def test_missing_metrics_are_an_error(tmp_path, capsys):
    assert publish(tmp_path, "--check") == 2
    message = f"{tmp_path}/committed/runs does not exist: give --runs, the output of train_all.py"
    assert capsys.readouterr().err.strip() == message
