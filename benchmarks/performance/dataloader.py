"""Shards to masked tensors, real tokens a core-second, beside other loaders; `results/loader.md`.

python benchmarks/loader.py [--corpus DIR] [--data DIR] [--rounds 5]
"""

import argparse
import sys
from pathlib import Path

from tables import publish
from texts import SIZES, add_options, plain_arrays_of, shards_of
from turns import Contestant, Spread, ratio, take_turns
from venvs import python_of

HERE = Path(__file__).resolve().parent
NOTES = """
One process, one thread, batch 256, masks made anew: ours end in packs, the peers' in tensors padded
to the longest sequence by DataCollatorForLanguageModeling. Tokens of processor time, read-ahead
thread included. Wanted: 30 times the better peer, and 10 M.
"""


def contestants(options: argparse.Namespace) -> list[Contestant]:
    """Two layouts of ours, and the peers."""
    shards = shards_of(SIZES[0], options.corpus, options.data)
    arrays = str(plain_arrays_of(shards))
    ours = [sys.executable, str(HERE / "loader_ours.py"), str(shards)]
    datasets = [python_of("transformers"), str(HERE / "loader_peer.py"), "datasets", arrays]
    streaming = [python_of("streaming"), str(HERE / "loader_peer.py"), "streaming", arrays]
    return [
        Contestant("bertds, end to end (CUDA)", [*ours, "0"], 1),
        Contestant("bertds, rows up to 256 (CPU)", [*ours, "256"], 1),
        Contestant("Hugging Face datasets", datasets, 1),
        Contestant("Hugging Face datasets, torch format", [*datasets, "torch"], 1),
        Contestant("MosaicML Streaming", streaming, 1),
    ]


def row_of(one: Contestant, ours: list[Contestant]) -> list[str]:
    """A rate and how often it goes into ours."""
    rate = Spread.of([value / 1e6 for value in one.cpu_rates])
    ratios = ["" if one in ours else str(ratio(each.cpu_rates, one.cpu_rates)) for each in ours]
    return [one.name, str(rate), *ratios]


def main() -> None:
    """All take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    all_of_them = contestants(options)
    take_turns(all_of_them, options.rounds)
    rows = [row_of(one, all_of_them[:2]) for one in all_of_them]
    header = ["loader", "M tokens/core-s", "× of end to end", "× of rows"]
    publish("loader", "Loader", header, rows, NOTES)


if __name__ == "__main__":
    main()
