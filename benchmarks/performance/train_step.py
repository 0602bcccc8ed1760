"""Training steps, real tokens a second, beside what one would use instead; `results/step.md`.

python benchmarks/step.py [--corpus DIR] [--data DIR] [--rounds 5] [--threads N] [--sizes 7458,52458]
"""

import argparse
import json
import os
import sys
from pathlib import Path

from tables import publish
from texts import SIZES, add_options, plain_arrays_of, shards_of
from turns import Contestant, ratio, take_turns
from venvs import python_of

HERE = Path(__file__).resolve().parent
OURS = "bertds"
USUAL = "transformers, dynamic padding, bf16 autocast"
TUNED = "transformers, tuned"
SAME = "transformers, tuned but SDPA and micro-batch 256"
RECORD = "transformers, padded to 256, fp32, logits everywhere"
TARGETS = {USUAL: (5, 8), SAME: (2, 2), TUNED: (2, 2), RECORD: (20, 40)}
GROUPED = {"grouped": True, "masked_rows": True, "fused": True}
SAME_CONFIG = GROUPED | {"micro": 256, "precision": "autocast", "attention": "sdpa"}
NOTES = """
Real tokens only; a turn of ours is two steps of the real engine (bf16 weights, fp32 masters, ZeRO 1)
and waits for its loader; the peers' batches are made before the clock starts. Batch 256, AdamW, 6
layers of 512, 8 heads, feed-forward 2,048, relu, no dropout. The peers compute parts of a batch
(`micro`) as their memory asks for. Logits for all positions need up to 4 bytes x rows x vocabulary a
few times over, so `usual` and `padded` do a quarter or a sixteenth of a batch a turn and count as
much of AdamW's time. Ratios are of rounds: median (least-most). `tuned` has length-grouped batches
(megabatches of 50, as its Trainer makes), logits on masked rows only, fused AdamW. Vocabularies have exactly the sizes of the record, by the number of merges.
"""


def sweep_configs() -> list[dict]:
    """What the tuned peer is chosen from."""
    plain = [
        GROUPED | {"micro": micro, "precision": precision, "attention": attention}
        for micro in (64, 256)
        for precision in ("autocast", "bf16")
        for attention in ("sdpa", "eager")
    ]
    return [
        *plain,
        GROUPED | {"micro": 256, "precision": "autocast", "attention": "eager", "compiled": True},
    ]


def peer(name: str, arrays: Path, config: dict, threads: int) -> Contestant:
    """A contestant of transformers."""
    program = [python_of("transformers"), str(HERE / "step_peer.py")]
    return Contestant(name, [*program, str(arrays), json.dumps(config)], threads)


def ours(name: str, kind: str, shards: Path, settings: str, threads: int) -> Contestant:
    """A contestant of this project."""
    program = [sys.executable, str(HERE / "step_ours.py"), kind]
    return Contestant(name, [*program, str(shards), settings], threads)


def tuned_config(arrays: Path, threads: int, rounds: int) -> tuple[dict, list[list[str]]]:
    """The fastest configuration by processor time, and the sweep's rows."""
    candidates = [peer(describe(c), arrays, c, threads) for c in sweep_configs()]
    for one in candidates:
        try:
            take_turns([one], rounds)
        except (ChildProcessError, ValueError) as error:  # no compiler, or no memory
            print(error, file=sys.stderr)
    done = [(one, c) for one, c in zip(candidates, sweep_configs(), strict=True) if one.rates]
    rows = [
        [one.name, f"{median(one.cpu_rates):,.0f}", f"{median(one.rates):,.0f}"] for one, _ in done
    ]
    return max(done, key=lambda pair: median(pair[0].cpu_rates))[1], rows


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def describe(config: dict) -> str:
    """`micro 256, bf16, eager`."""
    compiled = ", compiled" if config.get("compiled") else ""
    return f"micro {config['micro']}, {config['precision']}, {config['attention']}{compiled}"


def compare(size: int, options: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of one vocabulary, and those of the sweep."""
    shards = shards_of(size, options.corpus, options.data)
    arrays = plain_arrays_of(shards)
    if options.tuned:
        config, sweep = json.loads(options.tuned), []
    else:
        config, sweep = tuned_config(arrays, options.threads, options.sweep_rounds)
    tuned = f"{TUNED} ({describe(config)})"
    contestants = [
        ours(OURS, "engine", shards, "", options.threads),
        peer(USUAL, arrays, {"micro": 32, "part": 4}, options.threads),
        peer(tuned, arrays, config, options.threads),
        peer(SAME, arrays, SAME_CONFIG, options.threads),
        peer(
            RECORD,
            arrays,
            {"micro": 16, "padded": 256, "precision": "fp32", "part": 16},
            options.threads,
        ),
    ]
    take_turns(contestants, options.rounds)
    return [row_of(size, contestants[0], one) for one in contestants], [
        [f"{size:,}", *row] for row in sweep
    ]


def row_of(size: int, first: Contestant, one: Contestant) -> list[str]:
    """A row of the table."""
    wanted = next((t for name, t in TARGETS.items() if one.name.startswith(name)), None)
    wall, cpu = ratio(first.rates, one.rates), ratio(first.cpu_rates, one.cpu_rates)
    goal = "" if wanted is None else f"≥ {wanted[size > SIZES[0]]}"
    same = one is first
    rate, cpu_rate = median(one.rates), median(one.cpu_rates)
    return [
        f"{size:,}",
        one.name,
        f"{rate:,.0f}",
        f"{cpu_rate:,.0f}",
        "" if same else str(wall),
        "" if same else str(cpu),
        goal,
    ]


def main() -> None:
    """Both vocabularies."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweep_rounds", type=int, default=2)
    parser.add_argument("--tuned", help="a JSON object of step_peer.Config, instead of the sweep")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    options = parser.parse_args()
    rows, sweep = [], []
    for size in map(int, options.sizes.split(",")):
        found, swept = compare(size, options)
        rows += found
        sweep += swept
    header = ["ids", "program", "tokens/s", "tokens/core-s", "× (time)", "× (core time)", "wanted"]
    lines = [["ids", "sweep of the tuned peer", "tokens/core-s", "tokens/s"], ["---"] * 4, *sweep]
    chosen = "`tuned` is the fastest of this sweep, by core time, at each size."
    if options.tuned:
        chosen = "No sweep was made: `tuned` was given by hand."
    sweep_table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = f"{NOTES}\n{options.threads} threads, {options.rounds} rounds. {chosen}\n\n{sweep_table if sweep else ''}"
    publish("step", "Training step", header, rows, notes)


if __name__ == "__main__":
    main()
