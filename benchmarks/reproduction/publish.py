"""Publishes the record: from the runs of `record.py` to `docs/record/`, or its check.

python benchmarks/record_publish.py [--runs runs/record --data data/record] [--check] [--docs docs/record]

With `--runs`, the figures of all finished runs are copied first: `runs/<variant>/<case>/<arm>/` gets
`case.json`, `status.json` and `metrics.jsonl.gz`, and `corpus.json` the sizes of the shard sets. Tables,
plots and page are then drawn from these copies and nothing else, but for what a person wrote: in a
case's `record.md` from `**Verdict:**` on, and of all cases in `summary.md`. `--check` draws elsewhere
and fails where that differs from what is there: texts in any byte, plots visibly, the page in its
figures.
"""

import argparse
import gzip
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from matplotlib.testing.compare import compare_images
from matplotlib.testing.exceptions import ImageComparisonFailure
from record_pages import more_figures, readme
from record_rule import VARIANTS

from bertds.data.shards.reader import ShardSet
from bertds.io.json_files import read_json
from bertds.report.index import case_directories, write_index

ROOT = Path(__file__).resolve().parent.parent
VISIBLE = 2.0  # root of the mean squared difference of pixels of 0 to 255
_LIBRARY = re.compile(r'<script type="text/plain">[^<]*</script>')  # plotly.js, packed


def gather(runs: Path, data: Path, docs: Path) -> None:
    """Copy the figures of the finished runs, and of the arms that are the same as one of them."""
    for variant in VARIANTS:
        for path in sorted((runs / variant.name).glob("*/*/case.json")):
            case = read_json(path)
            source = (
                path.parent.parent.parent / case["same_as"] if case.get("same_as") else path.parent
            )
            if read_json(source / "status.json").get("state") == "done":
                _copy(path.parent, docs / "runs" / path.parent.relative_to(runs))
    sizes = read_json(docs / "corpus.json")  # of sets that lie on other machines, too
    for index in sorted(data.glob("*/*/*/index.json")):
        one = ShardSet.open(index.parent).index
        name = index.parent.relative_to(data).as_posix()
        sizes[name] = {
            "sequences": one.sequences,
            "tokens": one.tokens,
            "characters": one.characters,
        }
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "corpus.json").write_text(json.dumps(sizes, indent=1) + "\n")


def _copy(run: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("case.json", "status.json"):
        if (run / name).exists():
            shutil.copyfile(run / name, target / name)
    if (run / "metrics.jsonl").exists():
        packed = gzip.compress((run / "metrics.jsonl").read_bytes(), 9, mtime=0)
        (target / "metrics.jsonl.gz").write_bytes(packed)


def draw(docs: Path, out: Path) -> None:
    """Draw the record into `out` from the copies and the verdicts in `docs`.

    Raises:
        ValueError: There are no copies, or one is broken.
    """
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name)
        unpack(docs / "runs", runs)
        first = runs / VARIANTS[0].name
        for case in case_directories(first):
            written = docs / case.name / "record.md"
            if written.exists():
                shutil.copyfile(written, case / "record.md")
        write_index(first)
        for case in case_directories(first):
            _publish(
                case,
                out / case.name,
                more_figures(runs, case.name, read_json(docs / "corpus.json")),
            )
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first / "record.html", out / "record.html")
        index = (first / "record.md").read_text().partition("\n\n")[2].partition("\n\n")[2]
        summary = docs / "summary.md"
        written = summary.read_text() if summary.exists() else ""
        (out / "README.md").write_text(readme(runs, written, index))


def unpack(packed: Path, runs: Path) -> None:
    """Make run directories of the copies.

    Raises:
        ValueError: There are no copies.
    """
    if not packed.is_dir():
        raise ValueError(f"{packed} is not there: give --runs, where record.py trained")
    for path in sorted(packed.rglob("*.*")):
        target = runs / path.relative_to(packed)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            target.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        elif path.is_file():
            shutil.copyfile(path, target)


def _publish(case: Path, target: Path, more: str) -> None:
    """A case's record with more figures before its verdict, and its plots; the page is shared."""
    target.mkdir(parents=True, exist_ok=True)
    text = (case / "record.md").read_text()
    text = text.replace("(record.html)", f"(../record.html#{case.name})")
    before, heading, verdict = text.partition("## Verdict\n")
    (target / "record.md").write_text(before + more + heading + verdict)
    for plot in case.glob("*.png"):
        shutil.copyfile(plot, target / plot.name)


def differences(docs: Path, drawn: Path) -> list[str]:
    """What is drawn otherwise than what is published, a sentence each."""
    found = []
    names = {path.relative_to(root) for root in (docs, drawn) for path in _drawn_files(root)}
    for name in sorted(names):
        published, anew = docs / name, drawn / name
        if not published.exists() or not anew.exists():
            found.append(f"{name}: only {'drawn' if anew.exists() else 'published'}")
        elif _differ(published, anew):
            found.append(f"{name}: not what the committed metrics give")
    return found


def _drawn_files(root: Path) -> list[Path]:
    kept = [root / "README.md", root / "record.html", *root.glob("case*/*")]
    return [path for path in kept if path.exists()]


def _differ(published: Path, anew: Path) -> bool:
    """Byte for byte, but for what another version of the plotting libraries draws alike."""
    if published.suffix == ".png":
        try:
            return compare_images(str(published), str(anew), tol=VISIBLE) is not None
        except ImageComparisonFailure:  # of another size
            return True
    one, other = published.read_text(), anew.read_text()
    if published.suffix == ".html":
        one, other = _LIBRARY.sub("", one), _LIBRARY.sub("", other)
    return one != other


def main() -> int:
    """Publish, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT / "data/record")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/record")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        return _do(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _do(options: argparse.Namespace) -> int:
    if options.runs:
        gather(options.runs, options.data, options.docs)
    if not options.check:
        draw(options.docs, options.docs)
        return 0
    with tempfile.TemporaryDirectory() as name:
        draw(options.docs, Path(name))
        found = differences(options.docs, Path(name))
    print("\n".join(found) or f"{options.docs} is what its metrics give")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
