"""Throughput of the engine beside a plain loop with the same numerics; writes `results/engine.md`.

python -m benchmarks.performance.engine_overhead [--corpus DIR] [--data DIR] [--rounds 7]
    [--threads N]
"""

import argparse
import os
from statistics import median_high

from benchmarks.common.corpora import SIZES, add_options, make_shards
from benchmarks.common.harness import ratio, run_rounds
from benchmarks.common.tables import publish
from benchmarks.performance.train_step import make_ours

NOTES = """
One process, ZeRO 0. Both programs use bf16 weights and gradients, fp32 master weights and moments, fused
AdamW, and the same model, data loader and batches of 256. One turn is two steps. Target: at most
5 % slower, that is a ratio of at least 0.95.
"""


def main() -> None:
    """Compare the engine and the plain loop at both vocabulary sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    rows = []
    for size in SIZES:
        shards = make_shards(size, options.corpus, options.data)
        engine = make_ours("engine", "engine", shards, "zero_optimization.stage=0", options.threads)
        plain = make_ours("plain loop", "plain", shards, "", options.threads)
        run_rounds([engine, plain], options.rounds)
        rates = [f"{median_high(program.rates):,.0f}" for program in (engine, plain)]
        ratios = [ratio(engine.rates, plain.rates), ratio(engine.cpu_rates, plain.cpu_rates)]
        rows.append([f"{size:,}", *rates, *map(str, ratios)])
    header = ["ids", "engine, tokens/s", "plain loop", "× (time)", "× (core time)"]
    publish("engine", "Engine", header, rows, f"{NOTES}\n{options.threads} threads.")


if __name__ == "__main__":
    main()
