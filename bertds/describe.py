"""What a run is, said and written once at its start: `case.json`, `tokenizer.json`, a log line."""

import logging
import math
import platform
from importlib.metadata import version
from typing import Any

import torch

from bertds.data.loader import shared_lanes
from bertds.data.sets import Part
from bertds.data.shard_format import TOKENIZER_NAME
from bertds.engine import Engine
from bertds.prepare import Prepared
from bertds.replacing import replacing
from bertds.run_dir import PREEMPTED, now, read_json, write_json, write_status
from bertds.state.zero_state import shapes
from bertds.validation import guess_figures

logger = logging.getLogger("bertds")


def describe(run: Prepared, engine: Engine, step: int) -> None:
    """Say and save (`case.json`, `tokenizer.json`) what is about to run, from which step on."""
    logger.info(
        "%s/%s: %d sequences a step = %d micro-batch x %d accumulation x %d processes; "
        "%d steps of %d an epoch; %d sequences; %s; on %s",
        run.case.name,
        run.case.arm,
        run.case.train_batch_size,
        run.split.micro_batch_size,
        run.split.accumulation,
        run.world.world_size,
        run.lengths.num_steps,
        run.lengths.steps_per_epoch,
        run.loader.order.num_sequences,
        run.case.precision,
        device_name(engine.device),
    )
    if step:
        logger.info("going on from step %d", step)
    if advice := shared_lanes(run.world.world_size, run.loader.order.lanes):
        logger.warning("%s", advice)
    if advice := emulated_bf16(run.case.precision, engine.device):
        logger.warning("%s", advice)
    if run.world.is_main:
        names = ("torch", "deepspeed", "numpy", "tokenizers")
        versions = {"python": platform.python_version(), **{n: version(n) for n in names}}
        content = {
            "case": run.case.name,
            "arm": run.case.arm,
            "config": run.case.resolved,
            "resolved": _facts(run, engine),
            "versions": versions,
        }
        # The run's own copy: what is done with it later needs no shards.
        with replacing(run.run_dir / TOKENIZER_NAME) as file:
            file.write((run.vocabulary.directory / TOKENIZER_NAME).read_bytes())
        write_json(run.run_dir / "case.json", content)
        write_status(run.run_dir, "running", PREEMPTED, "training", step)


def emulated_bf16(precision: str, device: torch.device) -> str:
    """What bf16 costs on a CPU that has no instructions for it; empty if it has, or on a GPU.

    oneDNN multiplies bf16 matrices from AVX-512 on; below it torch's own loops do.
    """
    if precision != "bf16" or device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ""
    return (
        "bf16.enabled is true, but this CPU has no instructions for it, and a step takes several "
        "times as long as in fp32 (about ten times on an AMD EPYC of 2021): set bf16.enabled=false"
    )


def _facts(run: Prepared, engine: Engine) -> dict[str, Any]:
    """What follows from the case, the data and the machine."""
    # Of the first start, if this is another: the figures take a pass over the validation sets.
    before = read_json(run.run_dir / "case.json").get("resolved", {})
    train = [_set_facts(part) for part in run.train]
    valid = {name: _set_facts(one.part) for name, one in run.valid.items()}
    guess = before.get("guess_without_context") if before.get("valid") == valid else None
    totals = {key: sum(one[key] for one in train) for key in ("sequences", "tokens")}
    return {
        "world_size": run.world.world_size,
        "micro_batch_size": run.split.micro_batch_size,
        "gradient_accumulation_steps": run.split.accumulation,
        "steps_per_epoch": run.lengths.steps_per_epoch,
        "num_steps": run.lengths.num_steps,
        "lanes": run.loader.order.lanes,
        # Not the module's tensors, which hold nothing at stage 3.
        "parameters": sum(math.prod(shape) for shape in shapes(engine.deepspeed).values()),
        "vocab_size": run.vocabulary.size,
        "special_tokens": run.vocabulary.framed,
        "valid_row_length": run.valid_share.row_length,
        "train": {**totals, "sets": train},
        "valid": valid,
        "guess_without_context": guess or _guess(run),
        "device": device_name(engine.device),
        "started": before.get("started") or now(),
    }


def _guess(run: Prepared) -> dict[str, Any] | None:
    return guess_figures(run.valid, run.vocabulary.size) if run.valid else None


def _set_facts(part: Part) -> dict[str, Any]:
    """Of a part, tokens in proportion where it is not the whole set."""
    index = part.shards.index
    tokens = round(index.tokens * part.num_sequences / index.sequences)
    return {
        "name": part.name,
        "sequences": part.num_sequences,
        "tokens": tokens,
        "set_key": index.set_key,
    }


def device_name(device: torch.device) -> str:
    """What the driver calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
