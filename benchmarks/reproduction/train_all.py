"""Trains all cases at the scale of `scaling_rule.py`, from two texts to committed figures.

python -m benchmarks.reproduction.train_all --ko F[,F…] --en F[,F…] [--data data/record]
    [--out runs/record] [--variants seed0,seed1,seed2,adamw] [--cases case1,…]
    [--side_by_side N] [--committed benchmarks/reproduction/runs]

Makes the data and the scaled case files (OUT/cases) first. Then `launch/train.py` trains the arms to
OUT/<variant>/<case>/<arm>, `side_by_side` at once, each in one process with one thread. When an arm is
finished, `python -m bertds evaluate` sums up each validation sequence, and its figures are copied to
COMMITTED. An arm whose figures are there is skipped, so the results can grow over days and machines. Re-run
the same command to resume after an interruption. The output of an arm goes to OUT/<variant>/<case>.<arm>.log.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.reproduction.committed_runs import CHECKPOINTS, is_finished, pack, unpack
from benchmarks.reproduction.scaling_rule import (
    OVERFITTING,
    SCALED_MERGES,
    VARIANTS,
    Variant,
    scaled_case,
)
from bertds.config.case import Arm, list_arms
from bertds.data.shards.reader import ShardSet
from data_prep.reproduction import vocabulary_name

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An arm of a case in a variant."""

    variant: Variant
    case: Path
    arm: Arm

    @property
    def log(self) -> str:
        """Path of its output, relative to OUT."""
        return f"{self.variant.name}/{self.case.stem}.{self.arm.name}.log"

    @property
    def directory(self) -> str:
        """Path of its run, relative to OUT and to the committed runs."""
        return f"{self.variant.name}/{self.case.stem}/{self.arm.name}"

    @property
    def is_shared(self) -> bool:
        """Whether another case trains it."""
        return self.arm.path != self.case

    def train(self, options: argparse.Namespace) -> list[str]:
        """The command that trains or resumes it; for a shared arm it only writes the report."""
        command = [sys.executable, "launch/train.py", f"--ds_config={self.case}"]
        command += [f"--arm={self.arm.name}", f"--out={options.out / self.variant.name}"]
        return [*command, f"--set={self.variant.settings}", f"--data={options.data}"]

    def evaluations(self, options: argparse.Namespace) -> list[list[str]]:
        """The commands that write the sums of each validation sequence."""
        run = options.out / self.directory
        names = CHECKPOINTS if self.case.stem in OVERFITTING else ["last"]
        evaluate = [sys.executable, "-m", "bertds", "evaluate", str(run), f"--data={options.data}"]
        return [
            [*evaluate, f"--checkpoint={CHECKPOINTS[name]}", f"--sequences={run / name}.npz"]
            for name in ([] if self.is_shared else names)
        ]


def list_jobs(variants: list[Variant], cases: list[str], directory: Path) -> list[Job]:
    """Return every run once, under the case that trains it, then the arms that reuse such a run."""
    training: dict[str, Job] = {}
    shared = []
    # All seeds of a case before the next case: then its verdict is known as soon as possible.
    for name, variant in itertools.product(cases, variants):
        path = directory / f"{name}.json"
        for arm in list_arms(path) if name in variant.cases else []:
            source = replace(arm, name=arm.run_arm)
            job = Job(variant=variant, case=arm.path, arm=source)
            training.setdefault(job.directory, job)
            if arm.path != path:
                shared.append(Job(variant=variant, case=path, arm=arm))
    return [*training.values(), *shared]


def run_job(job: Job, options: argparse.Namespace) -> None:
    """Train or resume an arm, and copy its figures when it is finished."""
    (options.out / job.variant.name).mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (options.out / job.log).open("ab") as log:
        for command in [job.train(options), *job.evaluations(options)]:
            done = subprocess.run(
                command, check=False, stdout=log, stderr=log, env=ENVIRONMENT, cwd=ROOT
            )
            if done.returncode:
                print(f"{job.log}: exit code {done.returncode}", flush=True)
                return
    if is_finished(options.out / job.directory):
        pack(options.out / job.directory, options.committed / job.directory)
    minutes = (time.monotonic() - start) / 60
    print(f"{job.directory}: done after {minutes:.1f} minutes", flush=True)


class Links:
    """The arms that are the same as a run of another case: each is done as soon as that run is."""

    def __init__(self, jobs: list[Job], options: argparse.Namespace) -> None:
        self._jobs, self._options = jobs, options
        self._lock = threading.Lock()

    def run_ready(self) -> None:
        """Write the reports of the arms whose run is finished, and copy their figures."""
        out = self._options.out
        with self._lock:
            ready = [
                job for job in self._jobs if is_finished(out / job.variant.name / job.arm.same_as)
            ]
            self._jobs = [job for job in self._jobs if job not in ready]
        for job in ready:
            run_job(job, self._options)


def make_data(options: argparse.Namespace) -> int:
    """Make all vocabularies and shards. Return the number of sentences per language."""
    command = [sys.executable, "-m", "data_prep", "record"]
    command += [f"--ko={options.ko}", f"--en={options.en}", f"--out={options.data}"]
    merges = list(SCALED_MERGES.values())  # the largest first
    command += [f"--merges={','.join(map(str, merges))}"]
    subprocess.run(command, check=True, cwd=ROOT, env=ENVIRONMENT)
    english = options.data / vocabulary_name(merges[0]) / "en"
    return sum(ShardSet.open(english / split).index.lines for split in ("train", "valid"))


def write_cases(sentences: int, out: Path) -> Path:
    """Write the scaled case files to OUT/cases. Return this directory."""
    directory = out / "cases"
    directory.mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "ds_configs").glob("case*.json"):
        content = json.dumps(scaled_case(path, sentences), indent=1)
        (directory / path.name).write_text(content + "\n")
    return directory


def main() -> None:
    """Make the data and train the selected variants and cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ko", required=True, help="Korean texts, comma-separated")
    parser.add_argument("--en", required=True, help="English texts, comma-separated")
    parser.add_argument("--data", type=Path, default=ROOT / "data/record")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/record")
    parser.add_argument("--variants", default=",".join(variant.name for variant in VARIANTS))
    parser.add_argument("--cases", default=",".join(VARIANTS[0].cases))
    parser.add_argument("--committed", type=Path, default=ROOT / "benchmarks/reproduction/runs")
    parser.add_argument("--side_by_side", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    names, cases = options.variants.split(","), options.cases.split(",")
    directory = write_cases(make_data(options), options.out)
    if options.committed.is_dir():  # an arm of another case may reuse one of these runs
        unpack(options.committed, options.out)
    jobs = list_jobs([each for each in VARIANTS if each.name in names], cases, directory)
    jobs = [job for job in jobs if not is_finished(options.committed / job.directory)]
    links = Links([job for job in jobs if job.is_shared], options)
    links.run_ready()

    def run(job: Job) -> None:
        run_job(job, options)
        links.run_ready()

    with ThreadPoolExecutor(options.side_by_side) as pool:
        list(pool.map(run, [job for job in jobs if not job.is_shared]))


if __name__ == "__main__":
    main()
