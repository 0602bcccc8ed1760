"""Training-step throughput in non-padding tokens/s, beside transformers; writes `results/step.md`.

python -m benchmarks.performance.train_step [--corpus DIR] [--data DIR] [--rounds 5] [--threads N]
    [--sizes 7458,52458]
"""

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median_high

from benchmarks.common.corpora import SIZES, add_options, make_plain_arrays, make_shards
from benchmarks.common.harness import Contestant, ratio, run_rounds
from benchmarks.common.peer_venvs import peer_python
from benchmarks.common.tables import publish
from bertds.report.formatting import table

OURS = "bertds"
USUAL = "transformers, dynamic padding, bf16 autocast"
TUNED = "transformers, tuned"
SAME = "transformers, tuned but SDPA and micro-batch 256"
RECORD = "transformers, padded to 256, fp32, logits everywhere"
TARGETS = {USUAL: (5, 8), SAME: (2, 2), TUNED: (2, 2), RECORD: (20, 40)}
"""Target ratio of our rate to the peer's, for the small and the large vocabulary."""
GROUPED = {"grouped": True, "masked_rows": True, "fused": True}
SAME_CONFIG = GROUPED | {"micro": 256, "precision": "autocast", "attention": "sdpa"}
RECORD_CONFIG = {"micro": 16, "padded": 256, "precision": "fp32", "part": 16}
SWEEP = [
    *(
        GROUPED | {"micro": micro, "precision": precision, "attention": attention}
        for micro in (64, 256)
        for precision in ("autocast", "bf16")
        for attention in ("sdpa", "eager")
    ),
    GROUPED | {"micro": 256, "precision": "autocast", "attention": "eager", "compiled": True},
]
"""Configurations from which the tuned peer is chosen."""
HEADER = ["ids", "program", "tokens/s", "tokens/core-s", "× (time)", "× (core time)", "target"]
NOTES = """
Only non-padding tokens count. One turn of bertds is two steps of the real engine (bf16 weights, fp32
master weights, ZeRO 1). It includes the wait for the data loader; batches of the peers are made
before the clock starts. Batch 256, AdamW, 6 layers of width 512, 8 heads, feed-forward 2,048, relu, no
dropout. The peers split a batch into micro-batches (`micro`) that fit in memory. Logits for all
positions need several times 4 bytes x rows x vocabulary. The `dynamic padding` and `padded` peers
therefore compute a quarter or a sixteenth of a batch in each turn, and count the same fraction of
AdamW's time. `tuned` uses length-grouped batches (megabatches of 50, as in the Trainer), logits on
masked rows only, and fused AdamW. Vocabulary sizes equal those of the reference experiments. Ratios
are per round: median (minimum-maximum).
"""


def make_peer(name: str, arrays: Path, config: dict, threads: int) -> Contestant:
    """Return a worker that trains with transformers."""
    program = [peer_python("transformers"), "-m", "benchmarks.performance.train_step_transformers"]
    return Contestant(name, [*program, str(arrays), json.dumps(config)], threads)


def make_ours(name: str, kind: str, shards: Path, settings: str, threads: int) -> Contestant:
    """Return a worker that trains with this project: `kind` is `engine` or `plain`."""
    program = [sys.executable, "-m", "benchmarks.performance.train_step_bertds"]
    return Contestant(name, [*program, kind, str(shards), settings], threads)


def describe(config: dict) -> str:
    """Return a short text such as `micro 256, bf16, eager`."""
    compiled = ", compiled" if config.get("compiled") else ""
    return f"micro {config['micro']}, {config['precision']}, {config['attention']}{compiled}"


def choose_tuned_config(arrays: Path, threads: int, rounds: int) -> tuple[dict, list[list[str]]]:
    """Run the sweep. Return the fastest configuration by processor time, and the rows of the sweep."""
    finished = []
    for config in SWEEP:
        peer = make_peer(describe(config), arrays, config, threads)
        try:
            run_rounds([peer], rounds)
        except (ChildProcessError, ValueError) as error:  # no compiler, or out of memory
            print(error, file=sys.stderr)
        if peer.rates:
            finished.append((peer, config))
    rows = [
        [peer.name, f"{median_high(peer.cpu_rates):,.0f}", f"{median_high(peer.rates):,.0f}"]
        for peer, _ in finished
    ]
    return max(finished, key=lambda pair: median_high(pair[0].cpu_rates))[1], rows


def compare(size: int, options: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]]:
    """Compare all programs at one vocabulary size. Return the rows of the table and of the sweep."""
    shards = make_shards(size, options.corpus, options.data)
    arrays = make_plain_arrays(shards)
    if options.tuned:
        config, sweep = json.loads(options.tuned), []
    else:
        config, sweep = choose_tuned_config(arrays, options.threads, options.sweep_rounds)
    peers = {
        USUAL: {"micro": 32, "part": 4},
        f"{TUNED} ({describe(config)})": config,
        SAME: SAME_CONFIG,
        RECORD: RECORD_CONFIG,
    }
    ours = make_ours(OURS, "engine", shards, "", options.threads)
    others = [make_peer(name, arrays, each, options.threads) for name, each in peers.items()]
    run_rounds([ours, *others], options.rounds)
    rows = [make_row(size, ours, program) for program in (ours, *others)]
    return rows, [[f"{size:,}", *row] for row in sweep]


def make_row(size: int, ours: Contestant, program: Contestant) -> list[str]:
    """Return the table row of a program."""
    rates = [median_high(program.rates), median_high(program.cpu_rates)]
    row = [f"{size:,}", program.name, *(f"{rate:,.0f}" for rate in rates)]
    if program is ours:
        return [*row, "", "", ""]
    targets = next((t for name, t in TARGETS.items() if program.name.startswith(name)), None)
    target = "" if targets is None else f"≥ {targets[size > SIZES[0]]}"
    wall, cpu = ratio(ours.rates, program.rates), ratio(ours.cpu_rates, program.cpu_rates)
    return [*row, str(wall), str(cpu), target]


def main() -> None:
    """Compare all programs at each vocabulary size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweep_rounds", type=int, default=2)
    parser.add_argument(
        "--tuned", help="JSON object of train_step_transformers.Config; skips the sweep"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="vocabulary sizes")
    options = parser.parse_args()
    rows, sweep = [], []
    for size in map(int, options.sizes.split(",")):
        compared, swept = compare(size, options)
        rows += compared
        sweep += swept
    chosen = "`tuned` is the fastest of this sweep, by core time, at each size."
    if options.tuned:
        chosen = "No sweep: the configuration of `tuned` was given with `--tuned`."
    swept_table = table(["ids", "sweep of the tuned peer", "tokens/core-s", "tokens/s"], sweep)
    notes = f"{NOTES}\n{options.threads} threads, {options.rounds} rounds. {chosen}"
    publish("step", "Training step", HEADER, rows, f"{notes}\n\n{swept_table if sweep else ''}")


if __name__ == "__main__":
    main()
