"""A step of the engine beside a plain loop of the same numerics; `results/engine.md`.

python benchmarks/engine.py [--corpus DIR] [--data DIR] [--rounds 7] [--threads N]
"""

import argparse
import os

from step import median, ours
from tables import publish
from texts import SIZES, add_options, shards_of
from turns import ratio, take_turns

NOTES = """
One process, ZeRO 0; both with bf16 weights, gradients in bf16, fp32 masters and moments, fused
AdamW, the same model, loader and batches of 256. A turn is two steps. Wanted: at most 5 % slower,
a ratio of at least 0.95.
"""


def main() -> None:
    """Both vocabularies."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    rows = []
    for size in SIZES:
        shards = shards_of(size, options.corpus, options.data)
        engine = ours("engine", "engine", shards, "zero_optimization.stage=0", options.threads)
        plain = ours("plain loop", "plain", shards, "", options.threads)
        take_turns([engine, plain], options.rounds)
        rates = [f"{median(one.rates):,.0f}" for one in (engine, plain)]
        ratios = [ratio(engine.rates, plain.rates), ratio(engine.cpu_rates, plain.cpu_rates)]
        rows.append([f"{size:,}", *rates, *map(str, ratios)])
    header = ["ids", "engine, tokens/s", "plain loop", "× (time)", "× (core time)"]
    publish("engine", "Engine", header, rows, f"{NOTES}\n{options.threads} threads.")


if __name__ == "__main__":
    main()
