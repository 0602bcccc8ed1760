"""Throughput from shards to masked tensors, per core, beside other loaders; writes `results/loader.md`.

python -m benchmarks.performance.dataloader [--corpus DIR] [--data DIR] [--rounds 5]
"""

import argparse
import sys

from benchmarks.common.corpora import SIZES, add_options, make_plain_arrays, make_shards
from benchmarks.common.harness import Contestant, Spread, ratio, run_rounds
from benchmarks.common.peer_venvs import peer_python
from benchmarks.common.tables import publish

MODULE = "benchmarks.performance.dataloader"
HEADER = ["loader", "M tokens/core-s", "× of end to end", "× of rows"]
NOTES = """
One process, one thread, batch 256, dynamic masking. Our loader produces packed sequences. The peers produce
tensors that DataCollatorForLanguageModeling pads to the longest sequence. Rates are tokens per second of
processor time, prefetch thread included. Target: 30 times the better peer, and 10 M.
"""


def make_contestants(options: argparse.Namespace) -> list[Contestant]:
    """Return our loader in two layouts, then the peers."""
    shards = make_shards(SIZES[0], options.corpus, options.data)
    arrays = str(make_plain_arrays(shards))
    ours = [sys.executable, "-m", f"{MODULE}_bertds", str(shards)]
    datasets = [peer_python("transformers"), "-m", f"{MODULE}_peers", "datasets", arrays]
    streaming = [peer_python("streaming"), "-m", f"{MODULE}_peers", "streaming", arrays]
    return [
        Contestant("bertds, end to end (CUDA)", [*ours, "0"], 1),
        Contestant("bertds, rows up to 256 (CPU)", [*ours, "256"], 1),
        Contestant("Hugging Face datasets", datasets, 1),
        Contestant("Hugging Face datasets, torch format", [*datasets, "torch"], 1),
        Contestant("MosaicML Streaming", streaming, 1),
    ]


def main() -> None:
    """Compare all loaders and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    contestants = make_contestants(options)
    run_rounds(contestants, options.rounds)
    ours, rows = contestants[:2], []
    for loader in contestants:
        rate = Spread.of([value / 1e6 for value in loader.cpu_rates])
        ratios = [
            "" if loader in ours else str(ratio(each.cpu_rates, loader.cpu_rates)) for each in ours
        ]
        rows.append([loader.name, str(rate), *ratios])
    publish("loader", "Loader", HEADER, rows, NOTES)


if __name__ == "__main__":
    main()
