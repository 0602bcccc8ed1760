"""Describes a run at its start: a log line, `case.json`, `tokenizer.json`."""

import logging
import math
import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from bertds.config.schema import ModelConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import shared_lanes
from bertds.data.masked_ratio import MaskedRatio
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.distributed.watchdog import Watchdog
from bertds.engine.deepspeed_compat import has_bf16_instructions
from bertds.engine.engine import Engine
from bertds.engine.optimizer_state import shapes
from bertds.errors import ExitCode
from bertds.io.atomic import atomic_write
from bertds.io.json_files import read_json, write_json
from bertds.metrics.baselines import baselines_by_name, compute_baselines
from bertds.metrics.device import device_name
from bertds.runs.status import now, write_status
from bertds.training.run_setup import RunSetup

logger = logging.getLogger("bertds")
_MEASURED_TOKENS = 50_000  # of the first batches: reading them takes milliseconds


def write_run_info(run: RunSetup, engine: Engine, step: int, watchdog: Watchdog) -> None:
    """Log and save what is about to run, from which step on."""
    span = run.spans[run.number]
    if span.name:
        logger.info(
            "stage %s (%d of %d): steps %d to %d",
            *(span.name, run.number + 1, len(run.spans), span.first_step + 1, span.last_step),
        )
    logger.info(
        "%s/%s: %d sequences per step = %d micro-batch x %d accumulation x %d ranks; %d steps, %d "
        "per epoch; %d sequences; %s; on %s",
        run.case.name,
        run.case.arm,
        run.case.train_batch_size,
        run.split.micro_batch_size,
        run.split.accumulation,
        run.world.world_size,
        run.num_steps,
        run.lengths.steps_per_epoch,
        run.loader.sampler.num_sequences,
        run.case.precision,
        device_name(engine.device),
    )
    if not run.loader.plan.is_constant:
        logger.info("batch-size warm-up: %s", run.loader.plan.describe())
    if step > run.begins_at:
        logger.info("resuming from step %d", step)
    for advice in (
        shared_lanes(run.world.world_size, run.loader.sampler.lanes),
        emulated_bf16(run.case.precision, engine.device),
        large_positions(run.case.bertds.model),
    ):
        if advice:
            logger.warning("%s", advice)
    if not run.world.is_main:
        return
    if step < run.last_step:
        watchdog.heartbeat("measuring the masking ratio", step)
        ratio = measured_ratio(run, step)
        logger.log(logging.WARNING if ratio.is_off else logging.INFO, "masking: %s", ratio)
    names = ("torch", "deepspeed", "numpy", "tokenizers")
    content = {
        "case": run.case.name,
        "arm": run.case.arm,
        "config": run.whole.resolved,
        "resolved": _resolved(run, engine, watchdog),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in names}},
    }
    # The run's own copy: whoever uses the run later needs no shards.
    with atomic_write(run.run_dir / TOKENIZER_NAME) as file:
        file.write((run.vocabulary.directory / TOKENIZER_NAME).read_bytes())
    write_json(run.run_dir / "case.json", content)
    write_status(run.run_dir, "running", ExitCode.PREEMPTED, "training", step)


def measured_ratio(run: RunSetup, step: int) -> MaskedRatio:
    """The masking ratio of this rank's next batches, up to about 50,000 tokens."""
    masked = maskable = 0
    for number in range(step, run.last_step):
        packs = run.loader.batch(number)
        masked += sum(pack.masked.size for pack in packs)
        maskable += sum(pack.num_maskable for pack in packs)
        if maskable >= _MEASURED_TOKENS:
            break
    return MaskedRatio.of(run.case.bertds.masking, masked=masked, maskable=maskable)


def large_positions(model: ModelConfig) -> str:
    """A warning if fixed positions are ten times as large as the initial tokens; else empty."""
    rms = model.position_scale * math.sqrt(0.5)  # of sines and cosines
    if model.positions != "sinusoidal" or rms < 10 * model.initializer_range:
        return ""
    return (
        f"the sinusoidal positions have a root mean square of {rms:.2f}, the tokens start at "
        f"{model.initializer_range:g}: a new run learns sooner with model.position_scale="
        f"{model.initializer_range / math.sqrt(0.5):.3f}"
    )


def emulated_bf16(precision: str, device: torch.device) -> str:
    """A warning if bf16 is slow because this CPU has no instructions for it; empty otherwise."""
    if precision != "bf16" or device.type != "cpu" or has_bf16_instructions():
        return ""
    return (
        "bf16.enabled is true, but this CPU has no bf16 instructions, and a step takes several "
        "times as long as in fp32 (about ten times on an AMD EPYC of 2021): set bf16.enabled=false"
    )


def _resolved(run: RunSetup, engine: Engine, watchdog: Watchdog) -> dict[str, Any]:
    """What follows from the case, the data and the machine."""
    before = read_json(run.run_dir / "case.json").get("resolved", {})
    branch = before.get("branch") if run.branch is None else run.branch.record(run.run_dir)
    known = before or _resolved_of_trunk(run)
    train = [_dataset_info(subset) for subset in run.train]
    valid = {name: _dataset_info(dataset.subset) for name, dataset in run.valid.items()}
    # Computed once a run: it takes a pass over the validation sets, and over training text.
    baseline = known.get("guess_without_context") if known.get("valid") == valid else None
    if baseline is None and run.valid:
        logger.info("computing the baselines, from the training text and the validation masks")
        baseline = compute_baselines(
            run.valid,
            run.train,
            run.vocabulary.size,
            lambda items: watchdog.through(items, "computing the baselines"),
        )
        logger.info("%s", describe_baselines(baseline))
    totals = {key: sum(info[key] for info in train) for key in ("sequences", "tokens")}
    return {
        "world_size": run.world.world_size,
        "micro_batch_size": run.split.micro_batch_size,
        "gradient_accumulation_steps": run.split.accumulation,
        "steps_per_epoch": run.lengths.steps_per_epoch,
        "num_steps": run.num_steps,
        **({"stages": [asdict(span) for span in run.spans]} if run.case.stage else {}),
        "lanes": run.loader.sampler.lanes,
        # Not counted in the module's tensors, which are empty at ZeRO stage 3.
        "parameters": sum(math.prod(shape) for shape in shapes(engine.deepspeed).values()),
        "vocab_size": run.vocabulary.size,
        "special_tokens": run.vocabulary.has_special_tokens,
        "train_row_length": run.train_row_length,
        "valid_row_length": run.valid_spec.row_length,
        "train": {**totals, "sets": train},
        "valid": valid,
        "guess_without_context": baseline,
        "device": device_name(engine.device),
        "started": before.get("started") or now(),
        **({"branch": branch} if branch else {}),
    }


def _resolved_of_trunk(run: RunSetup) -> dict[str, Any]:
    """The same of the run that this one branches from, whose training text is the same."""
    if run.branch is None:
        return {}
    resolved: dict[str, Any] = read_json(run.branch.run_dir / "case.json").get("resolved", {})
    return resolved


def describe_baselines(baseline: dict[str, Any]) -> str:
    """One line with the loss and the accuracy of both baselines."""
    texts = [
        f"{name} {values['loss']:.3f} nats, {values['accuracy']:.1%}"
        for name, values in baselines_by_name(baseline).items()
    ]
    return f"baselines: {'; '.join(texts)}"


def _dataset_info(subset: DatasetSubset) -> dict[str, Any]:
    """Sequences and tokens in use; the tokens of a fraction are in proportion."""
    index = subset.shards.index
    return {
        "name": subset.name,
        "sequences": subset.num_sequences,
        "tokens": round(index.tokens * subset.num_sequences / index.sequences),
        "set_key": index.set_key,
    }
