"""A worker: steps of the real engine on the real loader, or of a plain loop over the same.

python benchmarks/step_ours.py engine|plain DIR [SETTINGS]
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from turns import Stopwatch, figures, serve

from bertds.config.case import Case, read_case
from bertds.data.packing import PackedBatch
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.process_group import init_process_group
from bertds.model.batch import DeviceBatch
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.param_groups import parameter_groups
from bertds.train.setup import RunSetup, prepare_run
from bertds.train.trainer import build

STEPS = 2  # a turn
Step = Callable[[list[PackedBatch]], object]


def main() -> tuple[dict[str, str], Callable[[], dict[str, float]]]:
    """What the arguments ask for."""
    kind, directory, settings = sys.argv[1], Path(sys.argv[2]), "".join(sys.argv[3:])
    case = read_case(Path(__file__).with_name("step.json"), "main", settings)
    run = prepare_run(case, directory.parent, Path("runs/bench"), World())
    device = init_process_group(run.world, 600.0)
    step = engine_step(run, device) if kind == "engine" else plain_step(run, case)
    batches = run.loader.batches(0, 1 << 40)
    return {"vocabulary": str(run.vocabulary.size)}, lambda: turn(step, batches)


def turn(step: Step, batches: Iterator[list[PackedBatch]]) -> dict[str, float]:
    """Some steps with the waiting for their data."""
    watch, tokens = Stopwatch(), 0
    with watch:
        for packs in itertools.islice(batches, STEPS):
            step(packs)
            tokens += sum(pack.num_tokens for pack in packs)
    return figures(tokens, watch)


def engine_step(run: RunSetup, device: torch.device) -> Step:
    """As the training loop does; the sums are read, so that nothing is left undone."""
    engine: Engine = build(run, device)
    numbers = itertools.count()
    return lambda packs: engine.train_step(packs, next(numbers), stop=False).sums()


def plain_step(run: RunSetup, case: Case) -> Step:
    """The loop that one would write by hand: bf16 weights, fp32 copies that AdamW trains."""
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
            loss, _ = model(tensors_of(pack))
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


def tensors_of(pack: PackedBatch) -> DeviceBatch:
    """A pack on the CPU."""
    names = ("inputs", "positions", "segments", "cumulative", "masked", "labels")
    return DeviceBatch(
        *(torch.from_numpy(getattr(pack, name)) for name in names), pack.rows, pack.max_length
    )


if __name__ == "__main__":
    serve(main)
