"""Training steps on one CUDA card beside transformers; `results/gpu.md`. NOT YET RUN ON A CARD.

python benchmarks/gpu.py --corpus DIR [--data DIR] [--rounds 5] [--steps 20] [--models NAME,…]
python benchmarks/gpu.py --corpus DIR --device cpu --tiny --rounds 1 --steps 1

All that it does has been tried on a CPU with `--tiny`, whose figures mean nothing and are printed
only. Its programs share the card, taking turns: lower `micro` in `gpu_models.py` where memory ends.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import torch
from gpu_models import HERE, MODELS, Task, task_of
from tables import publish
from texts import add_options
from turns import Contestant, ratio, take_turns
from venvs import python_of

HEADER = ["model", "program", "tokens/s", "MFU", "ours ×", "padding", "data wait", "syncs", "GB"]
NOTES = """
Real tokens only, in the rate and in the MFU, which is against {peak:.0f} TFLOP/s, what bf16 products of
8,192 reach on this card in the same run; windows of local attention count as none. Batch 256, AdamW,
no dropout, the same architecture on both sides by its config.json. Ours waits for its loader, and `data
wait` is the share of the time that it does; the peers' batches are made before. `syncs`: where a step
of ours makes the host wait, by torch's sync debug mode. Ratios are of rounds: median (least-most).
"""


def contestants_of(task: Task, options: argparse.Namespace) -> list[Contestant]:
    """Ours in both precisions, and transformers with dynamic and with full padding."""
    arm = "main" if task.model.changes else "batch256_cosine"
    program = [sys.executable, str(HERE / "gpu_ours.py"), str(task.case), arm]
    precisions = {"bf16": ""}
    if options.device == "cuda":  # DeepSpeed has no fp16 on CPU
        precisions["fp16"] = ",bf16.enabled=false,fp16.enabled=true"
    found = [
        Contestant(
            f"bertds, {name}",
            [*program, task.settings + change, str(task.shards), str(options.steps)],
            options.threads,
        )
        for name, change in precisions.items()
    ]
    paddings = {"dynamic padding": 1, f"padded to {task.model.seq_len}": task.model.seq_len}
    for name, padded in paddings.items():
        config = {"micro": task.model.micro, "padded": padded}
        program = [python_of("transformers"), str(HERE / "gpu_peer.py"), str(task.arrays)]
        program += [json.dumps(task.hugging_face), json.dumps(config), options.device]
        command = [*program, str(options.steps)]
        found.append(
            Contestant(f"transformers, SDPA, bf16 autocast, {name}", command, options.threads)
        )
    return found


def row_of(task: Task, first: Contestant, one: Contestant) -> list[str]:
    """A row of the table; the first program's measured peak serves all."""
    rate = median(one.rates)

    def share(name: str) -> str:
        values = [answer[name] for answer in one.answers if name in answer]
        return f"{median(values):.1%}" if values else ""

    return [
        task.model.name,
        one.name,
        f"{rate:,.0f}",
        f"{rate * task.flops_per_token / float(first.facts['peak']):.1%}",
        "" if one is first else str(ratio(first.rates, one.rates)),
        share("padding"),
        share("data_wait"),
        one.facts.get("syncs", ""),
        one.facts.get("memory", ""),
    ]


def compare(task: Task, options: argparse.Namespace) -> tuple[list[list[str]], float]:
    """The rows of a model, and the measured peak in FLOP/s."""
    contestants = contestants_of(task, options)
    take_turns(contestants, options.rounds)
    first = contestants[0]
    return [row_of(task, first, one) for one in contestants], float(first.facts["peak"])


def main() -> None:
    """All models that are asked for; refuses where there is no card."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="in a turn")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--models", default=",".join(one.name for one in MODELS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "torch finds no CUDA card here: try --device cpu --tiny\n")
    if options.device == "cpu" and not options.tiny:
        parser.exit(2, "--device cpu only tries the program: give --tiny as well\n")
    rows: list[list[str]] = []
    for model in [one for one in MODELS if one.name in options.models.split(",")]:
        task = task_of(model, options.corpus, Path(options.data) / "gpu", tiny=options.tiny)
        found, peak = compare(task, options)
        rows += found
        if options.tiny:
            print("\n".join(" | ".join(row) for row in found), flush=True)
        else:
            card = torch.cuda.get_device_name()
            notes = f"{card}, CUDA {torch.version.cuda}.\n{NOTES.format(peak=peak / 1e12)}"
            publish("gpu", "Training step on one card", HEADER, rows, notes)


if __name__ == "__main__":
    main()
