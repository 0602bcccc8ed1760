"""Worker: steps of the real engine on the real data loader, or of a plain PyTorch loop on the same.

python -m benchmarks.performance.train_step_bertds engine|plain SHARDS [SETTINGS]
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common.harness import Stopwatch, Turn, serve
from benchmarks.common.training_session import open_until_exit
from bertds.config.case import Case, read_case
from bertds.data.packing import PackedBatch
from bertds.engine.engine import Engine
from bertds.metrics.device import peak_memory_gb
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.param_groups import parameter_groups
from bertds.training.run_setup import RunSetup
from bertds.training.trainer import build_engine

STEPS = 2  # per turn
CPU = torch.device("cpu")
Step = Callable[[list[PackedBatch]], object]


def main() -> tuple[dict[str, str], Turn]:
    """Build the engine or the plain loop; return the worker's metadata and its turn."""
    kind, shards, settings = sys.argv[1], Path(sys.argv[2]), "".join(sys.argv[3:])
    case = read_case(Path(__file__).with_name("train_step.json"), "main", settings)
    run, device = open_until_exit(case, shards.parent)
    step = make_engine_step(run, device) if kind == "engine" else make_plain_step(run, case)
    batches = run.loader.batches(0, 1 << 40)

    def run_turn() -> dict[str, float]:
        watch, tokens = Stopwatch(), 0
        with watch:  # includes the wait for data
            for packs in itertools.islice(batches, STEPS):
                step(packs)
                tokens += sum(pack.num_tokens for pack in packs)
        return watch.answer(tokens) | {"peak_gb": peak_memory_gb(device)}

    return {"vocabulary": str(run.vocabulary.size)}, run_turn


def make_engine_step(run: RunSetup, device: torch.device) -> Step:
    """Return a training step of the engine. It reads the sums, so that all work is finished."""
    engine: Engine = build_engine(run, device)
    numbers = itertools.count()
    return lambda packs: engine.train_step(packs, next(numbers), stop=False).sums()


def make_plain_step(run: RunSetup, case: Case) -> Step:
    """Return a hand-written step: bf16 weights, and fp32 master copies that AdamW updates."""
    torch.manual_seed(0)
    vocabulary = run.vocabulary
    model = MaskedLanguageModel(case.bertds.model, vocabulary.size, vocabulary.pad_id)
    groups = parameter_groups(model, ("bias", "norm"))
    masters = [p.detach().clone() for group in groups for p in group["params"]]
    model.bfloat16()
    weights = [p for group in groups for p in group["params"]]
    decayed = len(groups[0]["params"])
    optimizer = torch.optim.AdamW(
        [{"params": masters[:decayed]}, {"params": masters[decayed:], "weight_decay": 0.0}],
        **{**case.deepspeed["optimizer"]["params"], "fused": True},
    )

    def step(packs: list[PackedBatch]) -> float:
        masked = sum(pack.masked.size for pack in packs)
        total = 0.0
        for pack in packs:
            loss, _ = model(to_device(pack=pack, device=CPU))
            (loss / masked).backward()
            total += loss.item()
        for master, weight in zip(masters, weights, strict=True):
            master.grad = weight.grad.float()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        model.zero_grad()
        return total

    return step


if __name__ == "__main__":
    serve(main)
