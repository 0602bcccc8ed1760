"""What a run is, said and written once at its start: `case.json`, `tokenizer.json`, a log line."""

import logging
import math
import platform
from importlib.metadata import version
from typing import Any

from bertds.data.dataset import DatasetSubset
from bertds.data.loader import shared_lanes
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.engine.engine import Engine
from bertds.engine.optimizer_state import shapes
from bertds.errors import ExitCode
from bertds.io.atomic import atomic_write
from bertds.io.json_files import read_json, write_json
from bertds.metrics.device import device_name, emulated_bf16
from bertds.metrics.unigram_baseline import unigram_baseline
from bertds.runs.status import now, write_status
from bertds.train.setup import RunSetup

logger = logging.getLogger("bertds")


def write_run_info(run: RunSetup, engine: Engine, step: int) -> None:
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
        with atomic_write(run.run_dir / TOKENIZER_NAME) as file:
            file.write((run.vocabulary.directory / TOKENIZER_NAME).read_bytes())
        write_json(run.run_dir / "case.json", content)
        write_status(run.run_dir, "running", ExitCode.PREEMPTED, "training", step)


def _facts(run: RunSetup, engine: Engine) -> dict[str, Any]:
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


def _guess(run: RunSetup) -> dict[str, Any] | None:
    return unigram_baseline(run.valid, run.vocabulary.size) if run.valid else None


def _set_facts(part: DatasetSubset) -> dict[str, Any]:
    """Of a part, tokens in proportion where it is not the whole set."""
    index = part.shards.index
    tokens = round(index.tokens * part.num_sequences / index.sequences)
    return {
        "name": part.name,
        "sequences": part.num_sequences,
        "tokens": tokens,
        "set_key": index.set_key,
    }
