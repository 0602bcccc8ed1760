"""Collects the packages and data that `benchmarks.gpu_once` needs on a machine without network.

    python -m benchmarks.gpu_once.carry --corpus DIR [--out data/gpu_carry]

OUT/wheels gets what an image with PyTorch usually lacks, in the versions of this environment;
OUT/data.tar.xz gets a tokenizer and shards of four lengths. DIR holds en.train.txt.gz.
"""

import argparse
import gzip
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu_once.models import MODELS, Model
from benchmarks.gpu_once.wheels import PEERS, ROOT, carried_wheels, project_requirements

LIMIT = 60 << 20  # bytes of the carried files and of the repository's, together
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux_2_12", "manylinux_2_5", "linux")
# Large, and part of every image with PyTorch.
ASSUMED = ("torch", "numpy", "matplotlib", "tensorboard", "setuptools")
BUILT = "deepspeed"  # has no wheel in the registry
MERGES = 28_000
LINES_LEARNED = 120_000
WORDS = 700_000  # of each set of shards


def packages_to_carry(requirements: Iterable[str]) -> dict[str, str]:
    """Return the versions, in this environment, of what the requirements need on the other machine."""
    target = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "extra": ""}
    found: dict[str, str] = {}
    queue = deque(requirements)
    while queue:
        requirement = Requirement(queue.popleft())
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate(target)
        if applies and name not in found and name not in ASSUMED:
            found[name] = version(name)
            queue.extend(requires(name) or [])
    return found


def make_wheels(out: Path) -> None:
    """Download the wheels, and build that of DeepSpeed without its CUDA operators."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = packages_to_carry([*project_requirements(), *PEERS])
    present = {name: wheel.version for name, wheel in carried_wheels(out).items()}
    for name, wheel in carried_wheels(out).items():
        if wanted.get(name) != wheel.version:
            Path(wheel._path.root.filename).unlink()
    lacking = [f"{name}=={v}" for name, v in wanted.items() if present.get(name) != v]
    pip = [sys.executable, "-m", "pip"]
    if any(text.startswith(BUILT) for text in lacking):
        flags = ["--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={out}"]
        command = [*pip, "wheel", *flags, f"{BUILT}=={wanted[BUILT]}"]
        subprocess.run(command, check=True, env={**os.environ, "DS_BUILD_OPS": "0"})
    lacking = [text for text in lacking if not text.startswith(BUILT)]
    if lacking:
        flags = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={out}"]
        flags += [f"--python-version={PYTHON}", "--implementation=cp"]
        flags += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
        subprocess.run([*pip, "download", *flags, *lacking], check=True)


def make_data(corpus: Path, out: Path, *, merges: int = MERGES, words: int = WORDS) -> None:
    """Write a tokenizer and the shards of all models into one archive, unless it exists.

    Args:
        corpus: Text, one sentence a line; compressed if its name ends in .gz.
        out: The archive.
        merges: Of the tokenizer.
        words: Of each set of shards.
    """
    if out.exists():
        return
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        text, tokenizer = work / "learned.txt", work / "tokenizer.json"
        with text.open("w", encoding="utf-8") as file:
            file.writelines(line for line, _ in zip(_sentences(corpus), range(LINES_LEARNED)))
        _data_prep("tokenizer", input=text, merges=merges, out=tokenizer)
        sentences = _sentences(corpus)
        for model in MODELS:
            text = work / f"{model.seq_len}.txt"
            text.write_text("".join(_documents(sentences, model, words)), encoding="utf-8")
            directory_of_set = work / "data" / Path(model.dataset).parent
            _data_prep(
                "shard",
                input=text,
                tokenizer=tokenizer,
                out=directory_of_set,
                seq_len=model.seq_len,
                valid_fraction=0,
            )
        unfinished = out.with_suffix(".part")
        with tarfile.open(unfinished, "w:xz") as tar:
            tar.add(work / "data", arcname=".")
        unfinished.rename(out)


def _sentences(corpus: Path) -> Iterator[str]:
    opened = gzip.open if corpus.suffix == ".gz" else open
    with opened(corpus, "rt", encoding="utf-8") as file:
        yield from file


def _documents(sentences: Iterator[str], model: Model, words: int) -> Iterator[str]:
    """Yield sentences, or documents of consecutive sentences with log-normal lengths."""
    generator = random.Random(0)
    document: list[str] = []
    target, taken = 0.0, 0
    for sentence in sentences:
        document += sentence.split()
        if len(document) < target:
            continue
        yield " ".join(document) + "\n"
        taken += len(document)
        if taken > words:
            return
        document, target = [], (model.words or 0) * generator.lognormvariate(0, 0.8)


def _data_prep(command: str, **options: object) -> None:
    flags = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([sys.executable, "-m", "data_prep", command, *flags], check=True)


def size_to_carry(out: Path) -> int:
    """Return the bytes of the carried files, and of the files of the repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    files = [ROOT / name for name in names.split("\0") if name]
    files += [path for path in out.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.is_file())


def main() -> int:
    """Make everything that is missing; exit with code 1 if it is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="holds en.train.txt.gz")
    parser.add_argument("--out", type=Path, default=Path("data/gpu_carry"))
    options = parser.parse_args()
    text = options.corpus / "en.train.txt.gz"
    if not text.is_file():
        parser.error(f"{text} does not exist: give --corpus a directory with en.train.txt.gz")
    make_wheels(options.out / "wheels")
    make_data(text, options.out / "data.tar.xz")
    size = size_to_carry(options.out)
    print(f"{options.out}: {size / 2**20:.1f} MiB with the repository, at most {LIMIT >> 20}")
    return int(size > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
