"""Runs the record at the scale of `record_rule.py`, from two texts to `OUT/<variant>/<case>/`.

python benchmarks/record.py --ko F[,F…] --en F[,F…] [--data data/record] [--out runs/record]
    [--variants seed0,seed1,seed2,adamw,warmup] [--cases case1,…] [--side_by_side N]
    [--published docs/record/runs]

The data are made first, then the arms are trained by `launch/train.py`, `side_by_side` at once, each
in one process of one thread. The same command goes on where an earlier one was stopped; finished arms are
skipped, and so are those whose metrics are published, so the record can grow on one machine after
another. What an arm prints is in `OUT/<variant>/<case>.<arm>.log`.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from record_publish import unpack
from record_rule import SCALED_MERGES, VARIANTS, Variant, scaled

from bertds.config.case import Arm, list_arms
from bertds.data.shards.reader import ShardSet
from data_prep.reproduction import vocabulary_name

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


# Large tensors are not given back to the kernel, to come again as pages of zeros: log.md.
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "2147483648"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An arm of a case in a variant."""

    variant: Variant
    case: Path
    arm: Arm

    @property
    def log(self) -> str:
        """Where its output goes, in OUT."""
        return f"{self.variant.name}/{self.case.stem}.{self.arm.name}.log"

    @property
    def directory(self) -> str:
        """Where its run is, in OUT and in what is published."""
        return f"{self.variant.name}/{self.case.stem}/{self.arm.name}"

    @property
    def is_shared(self) -> bool:
        """Whether another case trains it."""
        return self.arm.path != self.case


def jobs_of(variants: list[Variant], cases: list[str]) -> list[Job]:
    """Every run once, where it is trained, then the arms that only draw a run of another case."""
    training: dict[str, Job] = {}
    drawing = []
    for variant in variants:
        for path in [ROOT / f"ds_configs/{name}.json" for name in variant.cases if name in cases]:
            for arm in list_arms(path):
                source = replace(arm, name=arm.run_arm)
                job = Job(variant=variant, case=arm.path, arm=source)
                training.setdefault(job.directory, job)
                if arm.path != path:
                    drawing.append(Job(variant=variant, case=path, arm=arm))
    return [*training.values(), *drawing]


def run(job: Job, sentences: int, options: argparse.Namespace) -> None:
    """Train an arm, or go on with it, or draw it again."""
    settings = scaled(job.arm.path, job.arm.run_arm, sentences)
    if job.variant.settings:
        settings += f",{job.variant.settings}"
    command = [sys.executable, "launch/train.py", f"--ds_config={job.case}"]
    command += [f"--arm={job.arm.name}", f"--set={settings}", f"--data={options.data}"]
    out = options.out / job.variant.name
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | KEEPS_MEMORY | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    with (options.out / job.log).open("ab") as log:
        code = subprocess.run(
            [*command, f"--out={out}"],
            check=False,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=ROOT,
        ).returncode
    minutes = (time.monotonic() - began) / 60
    print(f"{job.log}: code {code} after {minutes:.1f} minutes", flush=True)


def make_data(options: argparse.Namespace) -> int:
    """All vocabularies and shards; gives the sentences of a language."""
    command = [sys.executable, "-m", "data_prep", "record"]
    command += [f"--ko={options.ko}", f"--en={options.en}", f"--out={options.data}"]
    merges = list(SCALED_MERGES.values())  # the largest first
    command += [f"--merges={','.join(map(str, merges))}"]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    sets = [
        ShardSet.open(options.data / vocabulary_name(merges[0]) / "en" / split)
        for split in ("train", "valid")
    ]
    return sum(one.index.lines for one in sets)


def main() -> None:
    """All that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ko", required=True)
    parser.add_argument("--en", required=True)
    parser.add_argument("--data", type=Path, default=ROOT / "data/record")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/record")
    parser.add_argument("--variants", default=",".join(one.name for one in VARIANTS))
    parser.add_argument("--cases", default=",".join(VARIANTS[0].cases))
    parser.add_argument("--published", type=Path, default=ROOT / "docs/record/runs")
    parser.add_argument("--side_by_side", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    wanted = options.variants.split(",")
    sentences = make_data(options)
    if options.published.is_dir():  # another case's arm may be one of these runs
        unpack(options.published, options.out)
    jobs = jobs_of([one for one in VARIANTS if one.name in wanted], options.cases.split(","))
    jobs = [job for job in jobs if not (options.published / job.directory).exists()]
    for shared in (False, True):  # a shared run is finished before it is drawn elsewhere
        with ThreadPoolExecutor(options.side_by_side) as pool:
            chosen = [job for job in jobs if job.is_shared == shared]
            list(pool.map(lambda job: run(job, sentences, options), chosen))


if __name__ == "__main__":
    main()
