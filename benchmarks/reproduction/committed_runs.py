"""Copies of the figures of finished runs, small enough to be committed.

runs/<variant>/<case>/<arm>/case.json, status.json, metrics.jsonl.gz
                            last.npz    sums of each validation sequence at the end
                            best.npz    the same at the best checkpoint, for some cases
"""

import gzip
import json
import shutil
from pathlib import Path

from bertds.io.json_files import read_json

CHECKPOINTS = {"last": "latest", "best": "best"}
"""Name of each file of sums, and the checkpoint that it is of."""


def is_finished(run: Path) -> bool:
    """Whether a run is done, or is the same as another one that is."""
    content = read_json(run / "case.json")
    if same_as := content.get("same_as"):
        run = run.parent.parent / same_as
    return bool(read_json(run / "status.json").get("state") == "done")


def pack(run: Path, target: Path) -> None:
    """Copy the figures of a finished run to its committed directory."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("case.json", "status.json", *(f"{name}.npz" for name in CHECKPOINTS)):
        if (run / name).exists():
            shutil.copyfile(run / name, target / name)
    if (run / "metrics.jsonl").exists():
        packed = gzip.compress((run / "metrics.jsonl").read_bytes(), 9, mtime=0)
        (target / "metrics.jsonl.gz").write_bytes(packed)


def unpack(packed: Path, runs: Path) -> None:
    """Restore run directories from the committed copies.

    Raises:
        ValueError: There are no copies.
    """
    if not packed.is_dir():
        raise ValueError(f"{packed} does not exist: train with train_all.py first")
    for path in sorted(packed.rglob("*.*")):
        target = runs / path.relative_to(packed)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            target.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        else:
            shutil.copyfile(path, target)


def run_directory(variant: Path, run: str) -> Path:
    """The directory of `<case>/<arm>` in a variant, or of the run that it is the same as."""
    same_as = read_json(variant / run / "case.json").get("same_as")
    return variant / (same_as or run)


def count_processor_time(runs: Path) -> None:
    """Make `seconds` in all metrics the processor time: other programs share the machine."""
    for path in runs.rglob("metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        timed = [{**line, "seconds": line.get("cpu_seconds", line["seconds"])} for line in lines]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in timed))
