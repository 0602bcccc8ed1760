"""Training steps on one GPU, beside transformers; writes `results/gpu.md`. NOT YET RUN ON A GPU.

python -m benchmarks.performance.gpu --corpus DIR [--data DIR] [--rounds 5] [--steps 20]
    [--models NAME,…]
python -m benchmarks.performance.gpu --corpus DIR --device cpu --tiny --rounds 1 --steps 1

The program has been tried on a CPU with `--tiny` only. Figures of `--tiny` are meaningless, and are
printed but not written. All programs share the GPU and take turns: lower `micro` in `gpu_models.py`
if memory runs out.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import torch

from benchmarks.common.corpora import add_options
from benchmarks.common.harness import Contestant, ratio, run_rounds
from benchmarks.common.peer_venvs import peer_python
from benchmarks.common.tables import publish
from benchmarks.performance.gpu_models import MODELS, Task, prepare_task

HEADER = ["model", "program", "tokens/s", "MFU", "ours ×", "padding", "data wait", "syncs", "GB"]
NOTES = """
Only non-padding tokens count, in the rate and in the MFU. The MFU is relative to {peak:.0f} TFLOP/s, the rate
of bf16 matrix products of size 8,192 on this GPU in the same run. Local attention counts as global attention.
Batch 256, AdamW, no dropout; both sides use the same architecture (config.json). bertds waits for its data
loader, and `data wait` is the fraction of time spent waiting; batches of the peers are made in advance.
`syncs`: where a step of bertds makes the host wait, by torch's sync debug mode. Ratios are per round: median
(minimum-maximum).
"""


def make_contestants(task: Task, options: argparse.Namespace) -> list[Contestant]:
    """Return bertds in both precisions, then transformers with dynamic and with full padding."""
    arm = "main" if task.model.changes else "batch256_cosine"
    precisions = {"bf16": ""}
    if options.device == "cuda":  # DeepSpeed does not support fp16 on CPU
        precisions["fp16"] = ",bf16.enabled=false,fp16.enabled=true"
    contestants = []
    for precision, change in precisions.items():
        command = [sys.executable, "-m", "benchmarks.performance.gpu_bertds", str(task.case), arm]
        command += [task.settings + change, str(task.shards), str(options.steps)]
        contestants.append(Contestant(f"bertds, {precision}", command, options.threads))
    paddings = {"dynamic padding": 1, f"padded to {task.model.seq_len}": task.model.seq_len}
    for padding, padded in paddings.items():
        config = {"micro": task.model.micro, "padded": padded}
        command = [peer_python("transformers"), "-m", "benchmarks.performance.gpu_transformers"]
        command += [str(task.arrays), json.dumps(task.hugging_face), json.dumps(config)]
        command += [options.device, str(options.steps)]
        name = f"transformers, SDPA, bf16 autocast, {padding}"
        contestants.append(Contestant(name, command, options.threads))
    return contestants


def make_row(task: Task, ours: Contestant, program: Contestant) -> list[str]:
    """Return the table row of a program; the peak that `ours` measured applies to all programs."""
    rate = median(program.rates)
    fractions = []
    for name in ("padding", "data_wait"):
        values = [answer[name] for answer in program.answers if name in answer]
        fractions.append(f"{median(values):.1%}" if values else "")
    return [
        task.model.name,
        program.name,
        f"{rate:,.0f}",
        f"{rate * task.flops_per_token / float(ours.metadata['peak']):.1%}",
        "" if program is ours else str(ratio(ours.rates, program.rates)),
        *fractions,
        program.metadata.get("syncs", ""),
        program.metadata.get("memory", ""),
    ]


def main() -> None:
    """Compare all programs on the selected models. Exit with code 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps per turn")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--models", default=",".join(model.name for model in MODELS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the program")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "torch finds no CUDA device: try --device cpu --tiny\n")
    if options.device == "cpu" and not options.tiny:
        parser.exit(2, "--device cpu is only for trying the program: add --tiny\n")
    rows: list[list[str]] = []
    for model in [model for model in MODELS if model.name in options.models.split(",")]:
        task = prepare_task(model, options.corpus, Path(options.data) / "gpu", tiny=options.tiny)
        contestants = make_contestants(task, options)
        run_rounds(contestants, options.rounds)
        ours = contestants[0]
        rows += [make_row(task, ours, program) for program in contestants]
        if options.tiny:
            new_rows = rows[-len(contestants) :]
            print("\n".join(" | ".join(row) for row in new_rows), flush=True)
        else:
            gpu, peak = torch.cuda.get_device_name(), float(ours.metadata["peak"])
            notes = f"{gpu}, CUDA {torch.version.cuda}.\n{NOTES.format(peak=peak / 1e12)}"
            publish("gpu", "Training step on one GPU", HEADER, rows, notes)


if __name__ == "__main__":
    main()
