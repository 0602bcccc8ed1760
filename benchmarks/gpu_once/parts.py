"""The parts, in groups that run one after the other, the most important ones first.

Importing this needs nothing but Python: what the parts need may not be installed yet.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_once.runner import Part

PACKAGE = "benchmarks.gpu_once"
MODELS = {"bert-base": (1, 8), "bert-large": (1, 8), "modernbert-base": (1, 8), "case11": (1,)}
"""The models of `models.py`, and the accumulations that bertds is measured at."""
PEERS = ("padded", "flash")
TEST_PROCESSES = 5
STAGES = {"fp32": (0, 1, 2, 3), "bf16": (1, 2, 3), "fp16": (1, 2, 3)}
PREPARING = 90.0  # seconds
COMPILING = 150.0
COMPILED_ON_CPU = "steps/bert-large/1/compiled"
TURN = 30.0
TRAINING = 150.0


def groups(device: str, data: Path, out: Path, jobs: int, *, tiny: bool) -> Iterator[list[Part]]:
    """Yield the groups.

    Args:
        device: `cuda` or `cpu`.
        data: The directory of the shards.
        out: Where the trace is written.
        jobs: Processes at a time.
        tiny: Whether the models are tiny.
    """
    sizes = ["--tiny"] if tiny else []
    slower = 4 if tiny else 1  # a machine on which the program is tried may be busy
    yield [
        Part(
            name=name,
            module=f"{PACKAGE}.part_machine",
            arguments=[name, device, *sizes],
            limit=slower * 60,
        )
        for name in ("versions", "peak")
    ]
    tests = Part(
        name="tests",
        module=f"{PACKAGE}.part_tests",
        arguments=[str(min(jobs, TEST_PROCESSES))],
        limit=slower * TRAINING,
    )
    yield [tests, *_training(device, data, sizes, slower * TRAINING)]
    yield [
        *_steps(data, sizes, slower * PREPARING),
        *_peers(device, data, sizes, slower * PREPARING),
        _trace(data, out, sizes, slower * PREPARING),
    ]
    # Two groups: the first step of all models at once would need more memory than a GPU has.
    for accumulation in (1, 8):
        compiled = _steps(data, [*sizes, "--compiled"], slower * COMPILING)
        chosen = [part for part in compiled if part.arguments[1] == str(accumulation)]
        # On a CPU, attention in rows is compiled for each combination of lengths: one model will do.
        yield [p for p in chosen if device == "cuda" or p.name == COMPILED_ON_CPU]


def _training(device: str, data: Path, sizes: list[str], limit: float) -> Iterator[Part]:
    """Every precision and stage, and one run on the CPU whose losses are compared with theirs."""
    for precision, stages in STAGES.items():
        if (precision, device) == ("fp16", "cpu"):
            continue  # DeepSpeed has no fp16 there
        for stage in stages:
            yield _train(f"train/{precision}/zero{stage}", precision, stage, data, sizes, limit)
    if device == "cuda":
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        yield _train("train/fp32/cpu", "fp32", 1, data, sizes, limit, hidden)


def _train(
    name: str,
    precision: str,
    stage: int,
    data: Path,
    sizes: list[str],
    limit: float,
    environment: dict[str, str] | None = None,
) -> Part:
    return Part(
        name=name,
        module=f"{PACKAGE}.part_train",
        arguments=[precision, str(stage), str(data), *sizes],
        limit=limit,
        environment=environment or {},
    )


def _steps(data: Path, flags: list[str], limit: float) -> Iterator[Part]:
    kind = "compiled" if "--compiled" in flags else "eager"
    for model, accumulations in MODELS.items():
        for accumulation in accumulations:
            yield Part(
                name=f"steps/{model}/{accumulation}/{kind}",
                module=f"{PACKAGE}.part_steps",
                arguments=[model, str(accumulation), str(data), *flags],
                limit=limit,
                turn=TURN * limit / PREPARING,
            )


def _peers(device: str, data: Path, sizes: list[str], limit: float) -> Iterator[Part]:
    for model in MODELS:
        for padding in PEERS:
            yield Part(
                name=f"steps/{model}/1/transformers-{padding}",
                module=f"{PACKAGE}.part_peer",
                arguments=[model, padding, "1", str(data), device, *sizes],
                limit=limit,
                turn=TURN * limit / PREPARING,
            )


def _trace(data: Path, out: Path, sizes: list[str], limit: float) -> Part:
    file = out.resolve() / "trace.json.gz"
    return Part(
        name="trace/bert-base",
        module=f"{PACKAGE}.part_steps",
        arguments=["bert-base", "1", str(data), *sizes, f"--trace={file}"],
        limit=limit,
        turn=TURN * limit / PREPARING,
    )
