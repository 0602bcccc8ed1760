"""Program: steps of `bert_base` and `modernbert_base` at full size: operators, waits and memory."""

from tests.fake_cuda.card import use_fake_card  # isort: skip - before torch

from typing import Any

from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.engine.process_group import init_process_group
from tests.fake_cuda.programs import write_result
from tests.fake_cuda.training import Batch, record_steps
from tests.helpers.launching import ROOT

MODELS: dict[str, tuple[int, list[Batch]]] = {
    "bert_base": (
        32_000,
        [Batch(sequences=64, mean_length=200), Batch(sequences=256, mean_length=200)],
    ),
    "modernbert_base": (
        50_368,
        [Batch(sequences=32, mean_length=400), Batch(sequences=128, mean_length=400)],
    ),
}
"""Vocabulary and micro-batches by the name of the case file."""


def steps_of(name: str, device: Any) -> list[dict[str, Any]]:
    """Operators by phase, waits and peak of a step with each micro-batch."""
    case = read_case(ROOT / "ds_configs" / f"{name}.json", "main")
    vocab_size, batches = MODELS[name]
    packs = [batch.pack(case, vocab_size) for batch in batches]
    # The first step is not recorded: it makes buffers that later ones have.
    steps = [[pack] for pack in (packs[0], *packs)]
    records = record_steps(case, World(), device, steps, vocab_size)[1:]
    return [
        {
            "sequences": batch.sequences,
            "vocab_size": vocab_size,
            "num_tokens": pack.inputs.size,
            "num_masked": pack.masked.size,
            "operators": dict(record.operators),
            "waits": [[times, wait, place] for (wait, place), times in record.waits.items()],
            "peak": record.peak,
        }
        for batch, pack, record in zip(batches, packs, records, strict=True)
    ]


if __name__ == "__main__":
    use_fake_card()
    device = init_process_group(World(), 600.0)
    write_result({name: steps_of(name, device) for name in MODELS})
