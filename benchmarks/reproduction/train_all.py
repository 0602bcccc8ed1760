"""Trains all cases at the scale of `scaling_rule.py`, from two texts to `OUT/<variant>/<case>/`.

python -m benchmarks.reproduction.train_all --ko F[,F…] --en F[,F…] [--data data/record]
    [--out runs/record] [--variants seed0,seed1,seed2,adamw,warmup] [--cases case1,…]
    [--side_by_side N] [--published benchmarks/reproduction/runs]

Makes the data first. Then `launch/train.py` trains the arms, `side_by_side` at once, each in one process
with one thread. Re-run the same command to resume after an interruption. Finished arms are skipped. Arms
whose metrics are published are skipped too, so the results can grow over several machines. The output of
an arm goes to `OUT/<variant>/<case>.<arm>.log`.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.reproduction.publish import unpack
from benchmarks.reproduction.scaling_rule import (
    SCALED_MERGES,
    VARIANTS,
    Variant,
    scaled_settings,
)
from bertds.config.case import Arm, list_arms
from bertds.data.shards.reader import ShardSet
from data_prep.reproduction import vocabulary_name

ROOT = Path(__file__).resolve().parents[2]
# Keep freed memory instead of returning it to the kernel: see results/optimization_log.md.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "2147483648"}


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
        """Path of its run, relative to OUT and to the published runs."""
        return f"{self.variant.name}/{self.case.stem}/{self.arm.name}"

    @property
    def is_shared(self) -> bool:
        """Whether another case trains it."""
        return self.arm.path != self.case


def list_jobs(variants: list[Variant], cases: list[str]) -> list[Job]:
    """Return every run once, under the case that trains it, then the arms that reuse such a run."""
    training: dict[str, Job] = {}
    shared = []
    for variant in variants:
        for path in [ROOT / f"ds_configs/{name}.json" for name in variant.cases if name in cases]:
            for arm in list_arms(path):
                source = replace(arm, name=arm.run_arm)
                job = Job(variant=variant, case=arm.path, arm=source)
                training.setdefault(job.directory, job)
                if arm.path != path:
                    shared.append(Job(variant=variant, case=path, arm=arm))
    return [*training.values(), *shared]


def run_job(job: Job, sentences: int, options: argparse.Namespace) -> None:
    """Train or resume an arm. For a shared arm, only the report is written."""
    settings = scaled_settings(job.arm.path, job.arm.run_arm, sentences)
    if job.variant.settings:
        settings += f",{job.variant.settings}"
    out = options.out / job.variant.name
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "launch/train.py", f"--ds_config={job.case}", f"--out={out}"]
    command += [f"--arm={job.arm.name}", f"--set={settings}", f"--data={options.data}"]
    environment = os.environ | KEEP_MEMORY | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    with (options.out / job.log).open("ab") as log:
        done = subprocess.run(
            command, check=False, stdout=log, stderr=log, env=environment, cwd=ROOT
        )
    minutes = (time.monotonic() - start) / 60
    print(f"{job.log}: exit code {done.returncode} after {minutes:.1f} minutes", flush=True)


def make_data(options: argparse.Namespace) -> int:
    """Make all vocabularies and shards. Return the number of sentences per language."""
    command = [sys.executable, "-m", "data_prep", "record"]
    command += [f"--ko={options.ko}", f"--en={options.en}", f"--out={options.data}"]
    merges = list(SCALED_MERGES.values())  # the largest first
    command += [f"--merges={','.join(map(str, merges))}"]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    english = options.data / vocabulary_name(merges[0]) / "en"
    return sum(ShardSet.open(english / split).index.lines for split in ("train", "valid"))


def main() -> None:
    """Make the data and train the selected variants and cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ko", required=True, help="Korean texts, comma-separated")
    parser.add_argument("--en", required=True, help="English texts, comma-separated")
    parser.add_argument("--data", type=Path, default=ROOT / "data/record")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/record")
    parser.add_argument("--variants", default=",".join(variant.name for variant in VARIANTS))
    parser.add_argument("--cases", default=",".join(VARIANTS[0].cases))
    parser.add_argument("--published", type=Path, default=ROOT / "benchmarks/reproduction/runs")
    parser.add_argument("--side_by_side", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    names, cases = options.variants.split(","), options.cases.split(",")
    sentences = make_data(options)
    if options.published.is_dir():  # an arm of another case may reuse one of these runs
        unpack(options.published, options.out)
    jobs = list_jobs([variant for variant in VARIANTS if variant.name in names], cases)
    jobs = [job for job in jobs if not (options.published / job.directory).exists()]
    for is_shared in (False, True):  # a run is finished before other cases reuse it
        with ThreadPoolExecutor(options.side_by_side) as pool:
            selected = [job for job in jobs if job.is_shared == is_shared]
            list(pool.map(lambda job: run_job(job, sentences, options), selected))


if __name__ == "__main__":
    main()
