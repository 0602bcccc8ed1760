"""Training steps on a CPU with and without `run.keep_freed_memory`; writes `results/malloc.md`.

python -m benchmarks.performance.malloc [--corpus DIR] [--data DIR] [--rounds 5] [--threads N]
"""

import argparse
import os
from statistics import median_high

from benchmarks.common.corpora import SIZES, add_options, make_shards
from benchmarks.common.harness import Contestant, ratio, run_rounds
from benchmarks.common.tables import publish
from benchmarks.performance.train_step import make_ours

SETTINGS = "train_batch_size=64,bf16.enabled=false"
NARROW = "model.hidden_size=128,model.num_attention_heads=2,model.intermediate_size=512"
MODELS = {
    "width 128, padded to 50,000 ids": f"{NARROW},model.pad_vocab_to_multiple_of=50000",
    "width 512": "",
}
HEADER = [
    "model",
    "ids of the tokenizer",
    "kept, tokens/s",
    "returned, tokens/s",
    "× (time)",
    "× (core time)",
]
HEADER += ["peak kept, GB", "peak returned, GB"]
NOTES = """
Both are the real engine: fp32, ZeRO 1, batch 64, 6 layers. One turn is two steps. `kept` is the default:
`run.keep_freed_memory` sets glibc's mmap and trim thresholds by `mallopt`. `returned` turns it off. The
peak is that of the process (`ru_maxrss`), with all its libraries.
"""


def main() -> None:
    """Compare both settings for two models."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    shards = make_shards(min(SIZES), options.corpus, options.data)
    rows = []
    for name, model in MODELS.items():
        settings = ",".join(filter(None, [SETTINGS, model]))
        pair = [
            make_ours(
                f"{name}, {switch}",
                "engine",
                shards,
                f"{settings},run.keep_freed_memory={switch}",
                options.threads,
            )
            for switch in ("true", "false")
        ]
        run_rounds(pair, options.rounds)
        rows.append([name, f"{int(pair[0].metadata['vocabulary']):,}", *cells(*pair)])
    threads = f"{options.threads} thread(s)."
    publish("malloc", "Freed memory kept in the process", HEADER, rows, f"{NOTES}\n{threads}")


def cells(kept: Contestant, returned: Contestant) -> list[str]:
    """Return rates, ratios and peaks."""
    rates = [f"{median_high(program.rates):,.0f}" for program in (kept, returned)]
    ratios = [ratio(kept.rates, returned.rates), ratio(kept.cpu_rates, returned.cpu_rates)]
    peaks = [f"{program.answers[-1]['peak_gb']:.2f}" for program in (kept, returned)]
    return [*rates, *map(str, ratios), *peaks]


if __name__ == "__main__":
    main()
