"""The published record: drawn from its copies alone, with its verdicts, and checked against them."""

import gzip
import importlib
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

from tests.helpers.fake_runs import config, lines_of, write_run, write_same
from tests.helpers.launching import ROOT

DEPTHS = {"layers2": 2.0, "layers6": 2.005, "layers10": 2.5}
VOCABULARY = config("vocabulary")
VOCABULARY["bertds"]["data"]["valid"] = {"en": {"name": "10k/en/valid"}}


def publish(docs: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / "benchmarks/record_publish.py", f"--docs={docs}", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Cases of one seed, and those of three, whose greatest spread is 0.01."""
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
    """Shards of a text of 40 characters a line."""
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
    docs = tmp_path_factory.mktemp("docs") / "record"
    done = publish(docs, f"--runs={runs}", f"--data={data}")
    assert done.returncode == 0, done.stderr
    return docs


@pytest.fixture
def docs(published, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(published, tmp_path / "record")


def test_arms_differ_beyond_twice_the_spread_only(docs):
    text = (docs / "case6/record.md").read_text()
    by_loss = text[text.index("Valid loss less the best") : text.index("Valid acc less the best")]
    assert "twice the spread, 0.020" in by_loss
    cells = {row[0]: row[1:] for row in re.findall(r"`(\w+)` \| (.*?) \| (.*?) \|", by_loss)}
    assert cells["layers2"][0].startswith("best, ")
    assert cells["layers6"][0] == "+0.005 undecided"
    assert cells["layers10"][0] == "+0.500 decided"


def test_seeds_stand_side_by_side_and_variants_beside_what_is_shipped(docs):
    text = (docs / "case4/record.md").read_text()
    losses = [f"{3.25 + s * 0.005 + 6 * math.exp(-4):.3f}" for s in range(3)]
    assert f"| `dynamic` | valid loss | {' | '.join(losses)} | {losses[1]} | 0.010 |" in text
    assert "best arm's, mean of 3 seeds, decided beyond twice the spread, 0.020" in text
    assert "| `static` | +0.500 decided |" in text
    assert "spread of valid loss" in (docs / "README.md").read_text()
    beside = (docs / "case7/record.md").read_text().partition("### AdamW")[2]
    assert re.search(r"\| `layers2` \| 2\.360 \| 1\.360 \|", beside)


def test_what_is_still_to_be_trained_is_listed(published):
    text = (published / "README.md").read_text().partition("Not trained yet")[2]
    listed = dict(re.findall(r"^- (\w+) \(.*?\): (.*)$", text, re.MULTILINE))
    assert listed["seed0"].startswith("case1, case2, case3, case5, case6")
    assert listed["seed1"] == "case8, case11"
    assert listed["warmup"] == "case9"


def test_loss_becomes_bits_per_character(docs, data):
    index = json.loads((data / "10k/en/valid/index.json").read_text())
    assert index["characters"] == 40 * index["lines"]
    table = (docs / "case8/record.md").read_text().partition("### Bits per character")[2]
    a_token, bits, guess, gain = re.search(
        r"\| `merges10k` \| 2\.360 \| (\S+) \| (\S+) \| 0\.0000 \| (\S+) \| (\S+) \|", table
    ).groups()
    assert float(a_token) == pytest.approx(index["characters"] / index["tokens"], abs=1e-3)
    assert float(bits) == pytest.approx(2.3599 / math.log(2) / float(a_token), rel=1e-3)
    assert float(guess) == pytest.approx(5.5 / math.log(2) / float(a_token), rel=1e-3)
    assert float(gain) == pytest.approx(float(guess) - float(bits), abs=1e-3)


def test_only_finished_runs_are_published(docs):
    assert not (docs / "case9").exists()
    assert {path.name for path in docs.glob("case*")} == {
        f"case{number}" for number in (4, 6, 7, 8, 11)
    }


def test_a_verdict_stays_and_the_check_passes(docs):
    record = docs / "case6/record.md"
    text = record.read_text().partition("**Verdict:**")[0] + "**Verdict:** undecided, by loss.\n"
    record.write_text(text)
    assert publish(docs).returncode == 0
    assert record.read_text() == text
    assert "undecided, by loss." in (docs / "README.md").read_text()
    checked = publish(docs, "--check")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_summary_stands_above_the_cases_and_under_the_check(docs):
    (docs / "summary.md").write_text("## What it shows\n\nMuch.\n")
    assert publish(docs, "--check").stdout.startswith("README.md: not what")
    assert publish(docs).returncode == 0
    text = (docs / "README.md").read_text()
    assert text.index("Much.") < text.index("| case |") < text.index("## How it was made")
    assert publish(docs, "--check").returncode == 0


def test_the_cost_of_a_variant_counts_a_run_once(docs):
    text = (docs / "README.md").read_text().partition("one after another")[2]
    counted = dict(re.findall(r"^\| (\w+) \|[^|]*\| (\d+) \|", text, re.MULTILINE))
    assert counted == {"seed0": "7", "seed1": "4", "seed2": "4", "adamw": "3"}


def test_the_check_names_what_the_metrics_do_not_give(docs):
    metrics = docs / "runs/seed0/case6/layers2/metrics.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(metrics.read_bytes()).splitlines()]
    for line in lines:
        line["loss/train"] = line.get("loss/train", 0) + 1.0
    metrics.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in lines).encode()))
    checked = publish(docs, "--check")
    assert checked.returncode == 1
    assert "case6/record.md: not what the committed metrics give" in checked.stdout
    assert "case6/case6_loss.png: not what" in checked.stdout
    assert "record.html: not what" in checked.stdout
    assert "case4" not in checked.stdout


def test_the_check_sees_a_figure_in_a_page_of_any_length_but_no_other_plotly(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    differ = importlib.import_module("record_publish")._differ
    pages = {}
    for name, figure, library in (("a", 1, "H4s"), ("b", 2, "H4s"), ("c", 1, "H4t")):
        data, packed = f"{figure}{' ' * 200_000}", library * 100_000
        text = f'<script type="application/json">{data}</script>'
        pages[name] = tmp_path / f"{name}.html"
        pages[name].write_text(f'{text}<script type="text/plain">{packed}</script>')
    assert differ(pages["a"], pages["b"])
    assert not differ(pages["a"], pages["c"])


def test_plots_of_other_sizes_differ(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    differ = importlib.import_module("record_publish")._differ
    for name, height in (("a", 50), ("b", 54)):
        matplotlib.image.imsave(tmp_path / f"{name}.png", np.zeros((height, 60, 3)))
    assert differ(tmp_path / "a.png", tmp_path / "b.png")
    assert not differ(tmp_path / "a.png", tmp_path / "a.png")


def test_sizes_of_sets_on_another_machine_stay(docs, runs, tmp_path):
    before = (docs / "corpus.json").read_text()
    assert publish(docs, f"--runs={runs}", f"--data={tmp_path}").returncode == 0
    assert (docs / "corpus.json").read_text() == before


def test_an_arm_without_a_figure_at_a_cost_is_not_compared_there(docs):
    """It is validated for the first time where another one has ended."""
    runs = docs / "runs/seed0"
    shutil.rmtree(runs / "case6")
    shutil.rmtree(runs / "case7")
    for arm, steps, every in (("batch64", 400, 100), ("batch256", 100, 10), ("batch1024", 20, 10)):
        lines = lines_of(steps, loss=2 + 1 / steps, eval_every=every)
        run = write_run(runs, "case6", arm, lines)
        packed = gzip.compress((run / "metrics.jsonl").read_bytes())
        (run / "metrics.jsonl.gz").write_bytes(packed)
        (run / "metrics.jsonl").unlink()
    assert publish(docs).returncode == 0
    decided = (docs / "case6/record.md").read_text().partition("## Whether the arms differ")[2]
    assert "nan" not in decided
    assert "| `batch64` | – | – | – | – |" in decided
    assert decided.count("best, ") == 2 * 4


def test_there_must_be_copies(tmp_path):
    done = publish(tmp_path, "--check")
    assert done.returncode == 2
    assert (
        done.stderr.strip() == f"{tmp_path}/runs is not there: give --runs, where record.py trained"
    )
