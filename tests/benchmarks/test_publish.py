"""The published reproduction: generated from committed figures alone, and checked."""

import gzip
import json
import re
import shutil
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from benchmarks.reproduction.committed_runs import pack
from benchmarks.reproduction.publish import differences, main
from bertds.inference.sequence_sums import SequenceSums, write_sequence_sums
from tests.helpers.fake_runs import config, lines_of, write_run, write_same

LOSSES = {"layers2": 2.0, "layers3": 2.001, "layers6": 2.5}
SIZE = 400


def publish(root: Path, *flags: str) -> int:
    """Run the program on the pages and the figures below a directory."""
    paths = [f"--docs={root / 'pages'}", f"--committed={root / 'committed'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["publish", *paths, *flags])
        return main()


def write_sums(run: Path, loss: float, seed: int = 0) -> None:
    """Sums of sequences whose mean loss is about `loss`; hard sequences are so for all runs."""
    hardness = np.random.default_rng(0).normal(1, 0.2, SIZE)
    noise = np.random.default_rng(seed).normal(0, 0.01, SIZE)
    sums = SequenceSums(
        nats=(5 * (loss * hardness + noise)).astype(np.float32),
        correct=np.full(SIZE, 2),
        masked=np.full(SIZE, 5),
        maskable=np.full(SIZE, 30),
        characters=np.full(SIZE, 60),
        text=np.arange(SIZE),
    )
    write_sequence_sums(run / "last.npz", {"en": sums})


def write_seed(runs: Path, case: str, arm: str, loss: float, seed: int = 0) -> Path:
    lines = [
        {**line, "cpu_seconds": line["seconds"] / 10, "acc_mask/valid": 0.3}
        for line in lines_of(20, loss=loss)
    ]
    run = write_run(runs / f"seed{seed}", case, arm, lines, config=config("title"))
    write_sums(run, loss, seed)
    return run


def commit(runs: Path, committed: Path) -> None:
    for path in sorted(runs.glob("*/*/*/case.json")):
        pack(path.parent, committed / path.parent.relative_to(runs))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Case 4 contradicts the reference, case 6 agrees; case 5 has one seed, case 7 lacks an arm."""
    root, runs = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("runs")
    for seed in range(3):
        for arm, loss in (("dynamic", 3.0), ("static", 3.5)):
            write_seed(runs, "case4", arm, loss + seed * 0.01, seed)
        for arm, loss in LOSSES.items():
            write_seed(runs, "case6", arm, loss + seed * 0.001, seed)
        write_seed(runs, "case7", "decay1e-6", 2.0, seed)
        write_same(runs / f"seed{seed}", "case7", "decay1e-4", "case6/layers3")
    for arm in ("decay1e-3", "decay1e-4"):
        write_seed(runs, "case5", arm, 2.0)
    for seed in range(3):
        for arm, loss in (("lr5e-4", 5.6), ("lr5e-5", 6.0)):  # the unigram baseline is 5.5
            write_seed(runs, "case10", arm, loss, seed)
    write_run(runs / "adamw", "case5", "decay1e-3", lines_of(20, loss=1.0))
    commit(runs, root / "committed")
    assert publish(root) == 0
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One published case with one arm: quick to generate again."""
    root, runs = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("runs")
    write_seed(runs, "case6", "layers2", 2.0)
    commit(runs, root / "committed")
    assert publish(root) == 0
    return root


@pytest.fixture
def copy(small, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(small, tmp_path / "copy")


def rows_of(page: Path) -> dict[str, list[str]]:
    """The rows of the table of comparisons: cells by the text of the comparison."""
    found = re.findall(
        r"^\| \d+ \| (.*? than .*?|.*? like .*?) \| (.*) \|$", page.read_text(), re.MULTILINE
    )
    return {name: cells.split(" | ") for name, cells in found}


def test_a_finding_holds_if_all_of_its_comparisons_agree(published):
    rows = rows_of(published / "pages/case6.md")
    assert {name: cells[-1] for name, cells in rows.items()} == {
        "`layers2` better than `layers6`": "agrees",
        "`layers3` better than `layers6`": "agrees",
        "`layers2` like `layers3`": "agrees",
    }
    mean, interval, unit = rows["`layers2` better than `layers6`"][4:7]
    assert float(mean) == pytest.approx(0.5, abs=0.02)
    low, high = map(float, interval.split(" to "))
    assert 0 < low < float(mean) < high
    assert unit == "nats"
    assert "**Here:** confirmed." in (published / "pages/case6.md").read_text()


def test_the_opposite_is_told(published):
    (cells,) = rows_of(published / "pages/case4.md").values()
    assert cells[-1] == "disagrees"
    assert float(cells[4]) == pytest.approx(-0.5, abs=0.03)
    assert "the opposite was found" in (published / "pages/case4.md").read_text()


def test_one_seed_decides_nothing_and_a_missing_arm_is_told(published):
    (cells,) = rows_of(published / "pages/case5.md").values()
    assert cells[-3:] == ["–", "nats", "1 of 3 seeds"]
    rows = rows_of(published / "pages/case7.md")
    assert rows["`decay1e-6` better than `decay1e-5`"][-1] == "0 of 3 seeds"
    assert rows["`decay1e-6` better than `decay1e-4`"][-1] in ("undecided", "agrees", "disagrees")


def test_arms_on_the_plateau_decide_nothing(published):
    (cells,) = rows_of(published / "pages/case10.md").values()
    assert float(cells[5].split(" to ")[0]) > 0
    assert cells[-1] == "undecided: neither reads context"


def test_the_index_counts_the_findings_and_lists_what_is_missing(published):
    text = (published / "pages/index.md").read_text()
    headline = re.search(r"\*\*Of the 11 findings of the reference — (.*)\.\*\*", text).group(1)
    numbers = dict(part.rsplit(": ", 1) for part in headline.split("; "))
    assert numbers == {
        "confirmed": "1",
        "not confirmed: the opposite was found": "1",
        "undecided": "1",
        "not trained yet with all arms and seeds": "8",
    }
    listed = dict(
        re.findall(r"^- (\w+): (.*)$", text.partition("Not trained yet")[2], re.MULTILINE)
    )
    assert listed["seed1"].startswith("case1, case2, case3, case5, case7")
    assert re.search(r"^\| seed0 \|[^|]*\| 10 \|", text, re.MULTILINE)  # a shared run counts once


def test_the_figures_of_all_seeds_are_means_and_ranges(published):
    text = (published / "pages/case4.md").read_text().partition("## Figures of all seeds")[2]
    base = 3.25 + 6 * np.exp(-4)
    expected = f"| `dynamic` | 3 | {base + 0.01:.3f} [{base:.3f}, {base + 0.02:.3f}] |"
    assert expected in text
    assert "### AdamW" in (published / "pages/case5.md").read_text()


def test_time_is_processor_time(published):
    line = re.search(r"^\| seed0 \|.*$", (published / "pages/index.md").read_text(), re.MULTILINE)
    assert line.group().endswith("| 10 s |")  # 10 runs of 20 steps of 0.05 s; 100 s by the clock


def test_every_link_has_a_target_and_every_file_is_linked(published):
    pages = published / "pages"
    files = {path.relative_to(pages).as_posix() for path in pages.rglob("*") if path.is_file()}
    links = {
        link.partition("#")[0]
        for page in pages.glob("*.md")
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text())
    }
    assert links == files - {"index.md"}
    assert {"images/effects.png", "images/case6_loss.png"} <= files
    assert {f"case{number}.md" for number in range(1, 15)} <= files  # also those without a run
    assert "No arm is trained yet." in (pages / "case14.md").read_text()


def test_the_check_names_the_files_that_the_figures_do_not_give(copy, capsys):
    assert publish(copy, "--check") == 0
    metrics = copy / "committed/seed0/case6/layers2/metrics.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(metrics.read_bytes()).splitlines()]
    for line in lines:
        line["loss/train"] = line.get("loss/train", 0) + 1.0
    metrics.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in lines).encode()))
    (copy / "pages/case99.md").touch()
    (copy / "pages/old.md").touch()  # not written here, so it is named but not deleted
    assert publish(copy, "--check") == 1
    output = capsys.readouterr().out
    assert "case6.md: differs from what the committed figures give" in output
    assert "images/case6_loss.png: differs" in output
    assert "old.md: only published" in output
    assert publish(copy) == 0
    assert not (copy / "pages/case99.md").exists()
    assert (copy / "pages/old.md").exists()


def test_the_full_reports_can_be_kept(copy, tmp_path):
    assert publish(copy, "--check", f"--report={tmp_path / 'report'}") == 0
    assert (tmp_path / "report/seed0/record.html").is_file()
    assert (tmp_path / "report/seed0/case6/case6_lr.png").is_file()


def test_plots_of_different_sizes_differ(tmp_path):
    for name, height in (("published", 50), ("generated", 54)):
        (tmp_path / name).mkdir()
        matplotlib.image.imsave(tmp_path / name / "plot.png", np.zeros((height, 60, 3)))
    (message,) = differences(tmp_path / "published", tmp_path / "generated")
    assert message.startswith("plot.png: differs")
    assert differences(tmp_path / "published", tmp_path / "published") == []


def test_missing_figures_are_an_error(tmp_path, capsys):
    assert publish(tmp_path, "--check") == 2
    message = f"{tmp_path}/committed does not exist: train with train_all.py first"
    assert capsys.readouterr().err.strip() == message
