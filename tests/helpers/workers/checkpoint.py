"""Scenarios of saving and loading on real DeepSpeed engines; started by `tests.gloo`.

python tests/helpers/workers/checkpoint.py SCENARIO DIRECTORY [ARGUMENT ...]
"""

import ctypes
import datetime
import hashlib
import itertools
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import nn
from torch.nn.functional import cross_entropy, gelu
from torch.optim.lr_scheduler import LambdaLR

from bertds.checkpoint import directory as checkpoint_files
from bertds.checkpoint import saver
from bertds.config.batch import BatchSplit
from bertds.distributed.world import World
from bertds.engine import optimizer_state
from bertds.engine.engine import Engine
from bertds.engine.process_group import destroy_process_group
from bertds.engine.progress import progress
from bertds.engine.weight_average import WeightAverage
from bertds.engine.zero_layout import check_supported, inner_optimizer, parameter_shards
from tests.helpers.gloo import emit

WORLD = World.detect()
BATCH = 6
ADAMW = {"type": "AdamW", "params": {"lr": 0.01, "weight_decay": 0.1, "torch_adam": True}}
COSINE = {
    "type": "WarmupCosineLR",
    "params": {"total_num_steps": 12, "warmup_num_steps": 3, "warmup_type": "linear"},
}


NAMES = ("embedding.weight", "place", "norm.weight", "up.weight", "down.weight", "head.bias")


class Tiny(nn.Module):
    """Odd sizes, a tied weight, a bare parameter, norms, biases."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.embedding = nn.Embedding(37, width)
        self.place = nn.Parameter(torch.zeros(7, width))
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 23)
        self.down = nn.Linear(23, width)
        self.head = nn.Linear(width, 37)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids) + self.place
        hidden = hidden + self.down(gelu(self.up(self.norm(hidden))))
        return cross_entropy(self.head(hidden).float().flatten(0, 1), labels.flatten())


def build(stage: int, precision: str, *, seed: int = 0, width: int = 10, **changes: Any) -> Engine:
    """A fresh engine with its initial step undone.

    `changes` are DeepSpeed's keys, `client` (a scheduler) or `ema` (the decay of an average).
    """
    torch.manual_seed(seed)
    model = Tiny(width)
    config: dict[str, Any] = {
        "train_batch_size": BATCH,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage} | changes.pop("zero", {}),
        "zero_allow_untested_optimizer": True,
        "optimizer": ADAMW,
    }
    if precision != "fp32":
        config[precision] = {"enabled": True} | changes.pop("fp16", {})
    client, decay = changes.pop("client", None), changes.pop("ema", None)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    ds_engine, *_ = deepspeed.initialize(
        model=model, model_parameters=groups, config=config | changes, lr_scheduler=client
    )
    optimizer_state.undo_initial_step(ds_engine)
    split = BatchSplit(micro_batch_size=BATCH // WORLD.world_size, accumulation=1)
    average = None if decay is None else WeightAverage(ds_engine, decay)
    return Engine(ds_engine, WORLD, torch.device("cpu"), split, seed, average=average)


@contextmanager
def engine_of(stage: int, precision: str, **changes: Any) -> Iterator[Engine]:
    plain_linear = torch.nn.functional.linear
    engine = build(stage, precision, **changes)
    try:
        yield engine
    finally:
        engine.deepspeed.destroy()
        # ZeRO 3 leaves its own function in place, which rounds differently in bf16.
        torch.nn.functional.linear = plain_linear


def train_step(engine: Engine) -> float:
    """Make one step, whose batch depends on the step number. Returns the mean loss."""
    ds_engine = engine.deepspeed
    generator = torch.Generator().manual_seed(ds_engine.global_steps)
    ids = torch.randint(0, 37, (BATCH, 7), generator=generator)
    rows = BATCH // WORLD.world_size
    part = ids[WORLD.rank * rows :][:rows]
    loss = ds_engine(part, (part * 3 + 1) % 37)
    ds_engine.backward(loss)
    ds_engine.step()
    if engine.average is not None:
        engine.average.update()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return float(total) / WORLD.world_size


def whole_state(engine: Engine) -> dict[str, torch.Tensor]:
    """Weights and moments of all ranks together; every element comes from exactly one rank."""
    parts: list[Any] = [None] * WORLD.world_size
    dist.all_gather_object(parts, optimizer_state.fragments(engine.deepspeed, engine.average))
    sizes = {
        n: int(torch.tensor(s).prod()) for n, s in optimizer_state.shapes(engine.deepspeed).items()
    }
    state: dict[str, torch.Tensor] = {}
    for part in parts:
        for key, value in part.items():
            kind, name, start = key
            whole = state.setdefault(f"{kind}|{name}", torch.full((sizes[name],), torch.nan))
            target = whole[int(start) : int(start) + value.numel()]
            assert target.isnan().all(), f"{key} is held twice"
            target.copy_(value)
    assert all(not value.isnan().any() for value in state.values())
    return state


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def in_use_is_fresh(engine: Engine) -> bool:
    """Whether the weights in use are the rounded fp32 ones."""
    fresh = True
    for shard in parameter_shards(engine.deepspeed):
        if hasattr(shard.parameter, "ds_tensor"):
            used = shard.parameter.ds_tensor.view(-1)[: shard.length]
        else:
            used = shard.parameter.detach().view(-1)[shard.start : shard.start + shard.length]
        fresh &= torch.equal(used, shard.of(shard.master).to(used.dtype))
    return fresh


def train_and_save(
    run_dir: Path, stage: int, precision: str, *, steps: int = 3, **changes: Any
) -> None:
    """Train, save, and return the result of the next step."""
    with engine_of(stage, precision, **changes) as engine:
        losses = [train_step(engine) for _ in range(steps)]
        saver.save(engine, run_dir, {"losses": losses}, keep_last=1, best=False)
        kept = {"before": whole_state(engine), "losses": losses}
        kept["loss"] = train_step(engine)
        kept["after"] = whole_state(engine)
        kept["progress"] = progress(engine.deepspeed)
        kept["rates"] = engine.deepspeed.get_lr()
    if WORLD.is_main:
        torch.save(kept, run_dir / "kept.pt")
    dist.barrier()


def load_and_compare(run_dir: Path, stage: int, precision: str, **changes: Any) -> dict[str, Any]:
    """Load into an engine with other weights, and make the same next step."""
    kept = torch.load(run_dir / "kept.pt")
    with engine_of(stage, precision, seed=99, **changes) as engine:
        check_supported(engine.deepspeed)
        found = saver.find_newest(engine, run_dir)
        assert found is not None
        state = saver.load(engine, found)
        assert state == {"losses": kept["losses"]}
        result = {
            "loaded": distance(whole_state(engine), kept["before"]),
            "fresh": in_use_is_fresh(engine),
        }
        loss = train_step(engine)
        result["loss"] = abs(loss - kept["loss"])
        result["after"] = distance(whole_state(engine), kept["after"])
        result["progress"] = progress(engine.deepspeed) == kept["progress"]
        result["rates"] = engine.deepspeed.get_lr() == kept["rates"]
        return result


def save_all(root: Path) -> None:
    """One checkpoint for each stage and precision."""
    for precision, stage in itertools.product(("fp32", "bf16"), range(4)):
        name = f"{precision} {stage} {WORLD.world_size}"
        train_and_save(root / name, stage, precision, scheduler=COSINE, ema=0.9)


def load_all(root: Path) -> None:
    """Every checkpoint into each stage and precision."""
    for run_dir, precision, stage in itertools.product(
        sorted(root.iterdir()), ("fp32", "bf16"), range(4)
    ):
        load_one(run_dir, stage, precision)


def load_some(root: Path) -> None:
    """Every checkpoint into one stage of its precision and one of the other."""
    for number, run_dir in enumerate(sorted(root.iterdir())):
        precision, stage, _ = run_dir.name.split()
        load_one(run_dir, (int(stage) + 1 + number // 4) % 4, precision)
        if WORLD.world_size < 3:
            load_one(run_dir, (int(stage) + 3) % 4, {"fp32": "bf16", "bf16": "fp32"}[precision])


def load_stages(root: Path) -> None:
    """Every checkpoint into each stage of its precision."""
    for run_dir, stage in itertools.product(sorted(root.iterdir()), range(4)):
        load_one(run_dir, stage, run_dir.name.split()[0])


def load_one(run_dir: Path, stage: int, precision: str) -> None:
    result = load_and_compare(run_dir, stage, precision, scheduler=COSINE, ema=0.9)
    if WORLD.is_main:
        here = f"{precision} {stage} {WORLD.world_size}"
        emit(scenario="load", source=run_dir.name, into=here, **result)


def average(_: Path) -> None:
    """The moving average equals one that is computed from the whole weights of each step."""
    for precision, stage in itertools.product(("fp32", "bf16"), range(4)):
        with engine_of(stage, precision, ema=0.7) as engine:
            state = whole_state(engine)
            expected = {name: state[f"weight|{name}"] for name in NAMES}
            for _ in range(3):
                train_step(engine)
                state = whole_state(engine)
                for name in NAMES:
                    expected[name] = (
                        expected[name] + (state[f"weight|{name}"] - expected[name]) * 0.3
                    )
            off = max(float((state[f"ema|{name}"] - expected[name]).abs().max()) for name in NAMES)
            far = float((state["ema|up.weight"] - state["weight|up.weight"]).abs().max())
        if WORLD.is_main:
            emit(scenario="average", stage=stage, precision=precision, off=off, far=far)


def optimizer(kind: str, **params: Any) -> dict[str, Any]:
    return {"optimizer": {"type": kind, "params": {"lr": 0.01, **params}}}


def schedule(kind: str, **params: Any) -> dict[str, Any]:
    return {"scheduler": {"type": kind, "params": params}}


def zero(**keys: Any) -> dict[str, Any]:
    return {"zero": keys}


def decaying(basic: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(basic, lambda step: 1 / (1 + step))


class Pair(NamedTuple):
    """Save under one set of DeepSpeed keys, load under another."""

    precision: str
    stage: int
    into: int
    saving: dict[str, Any]
    loading: dict[str, Any]
    steps: int = 3


def both(precision: str, stage: int, into: int, **keys: Any) -> Pair:
    return Pair(precision, stage, into, keys, keys)


LINEAR = {"warmup_type": "linear", "warmup_num_steps": 3}
FP32_GRADIENTS = {"data_types": {"grad_accum_dtype": "fp32"}}
COUPLED = optimizer("Adam", weight_decay=0.1, adam_w_mode=False, torch_adam=True)
SCALE = {"fp16": {"initial_scale_power": 17, "loss_scale_window": 2, "hysteresis": 1}}
PAIRS = {
    "round robin": Pair("fp32", 2, 1, zero(round_robin_gradients=True), {}),
    "into round robin": Pair("bf16", 3, 1, {}, zero(round_robin_gradients=True)),
    "aligned": Pair("bf16", 1, 3, zero(parameter_alignment=True), {}),
    "sub-groups": Pair("fp32", 3, 2, zero(sub_group_size=100), {}),
    "into sub-groups": Pair("bf16", 1, 3, {}, zero(sub_group_size=100)),
    "none persistent": Pair("bf16", 3, 0, zero(param_persistence_threshold=0), {}),
    "fp32 gradients": Pair("bf16", 1, 3, FP32_GRADIENTS, {}),
    "into fp32 gradients": Pair("bf16", 0, 1, {}, FP32_GRADIENTS),
    "coupled L2": both("bf16", 0, 2, **COUPLED),
    "amsgrad": both("fp32", 3, 0, **optimizer("Adam", amsgrad=True, torch_adam=True)),
    "momentum": both("fp32", 0, 1, **optimizer("SGD", momentum=0.9)),
    "no moments": both("fp32", 1, 3, **optimizer("SGD")),
    "two scalars": both("bf16", 1, 3, **optimizer("NAdam")),
    "before step 1": Pair("bf16", 1, 0, {}, {}, steps=0),
    "after step 1": both("fp32", 2, 3, client=decaying)._replace(steps=1),
    "ours": both("bf16", 3, 1, client=decaying),
    "WarmupLR": both("fp32", 1, 2, **schedule("WarmupLR", warmup_max_lr=0.01, **LINEAR)),
    "WarmupDecayLR": both(
        "fp32", 1, 2, **schedule("WarmupDecayLR", warmup_max_lr=0.01, total_num_steps=9, **LINEAR)
    ),
    "OneCycle": both("fp32", 1, 2, **schedule("OneCycle", cycle_min_lr=0.001, cycle_max_lr=0.01)),
    "fp16 1": both("fp16", 1, 2, **SCALE),
    "fp16 2": both("fp16", 2, 3, **SCALE),
    "fp16 3": both("fp16", 3, 1, **SCALE),
}


def pairs(root: Path) -> None:
    """Options of DeepSpeed that change the layout, other optimizers, schedules, fp16."""
    # DeepSpeed rejects fp16 on CPU because it is slow; it works.
    get_accelerator().is_fp16_supported = lambda: True
    for name, pair in PAIRS.items():
        run_dir = root / name
        train_and_save(run_dir, pair.stage, pair.precision, steps=pair.steps, **pair.saving)
        result = load_and_compare(run_dir, pair.into, pair.precision, **pair.loading)
        if WORLD.is_main:
            emit(scenario="pairs", name=name, precision=pair.precision, **result)


def settings(root: Path) -> None:
    """A changed case file takes effect on resume, except for the position in the schedule."""
    warm = schedule("WarmupLR", warmup_max_lr=0.01, **LINEAR)
    run_dir = root / "settings"
    train_and_save(run_dir, 1, "fp32", **warm)
    slow = schedule("WarmupLR", warmup_max_lr=0.004, warmup_type="linear", warmup_num_steps=4)
    changed = optimizer("AdamW", weight_decay=0.3, betas=[0.8, 0.99], torch_adam=True)
    with engine_of(3, "bf16", **slow, **changed) as engine:
        saver.load(
            engine, checkpoint_files.open_checkpoint(checkpoint_files.list_checkpoints(run_dir)[0])
        )
        groups = inner_optimizer(engine.deepspeed).param_groups
        if WORLD.is_main:
            emit(
                scenario="settings",
                rates=[group["lr"] for group in groups],
                decays=[group["weight_decay"] for group in groups],
                betas=[list(group["betas"]) for group in groups],
                micro_steps=engine.deepspeed.micro_steps,
                global_steps=engine.deepspeed.global_steps,
            )


def start(_: Path) -> None:
    """DeepSpeed's initial step at stage 0 in bf16, and its undoing."""
    losses = {}
    for stage in (0, 1):
        with engine_of(stage, "bf16", **COUPLED) as engine:
            losses[stage] = [train_step(engine) for _ in range(4)]
    if WORLD.is_main:
        emit(scenario="start", losses=[losses[0], losses[1]])


def message_of(work: Callable[[], Any]) -> str:
    try:
        work()
    except ValueError as error:
        return f"{getattr(error, 'code', 2)} {error}"
    return ""


def damage(file: Path, position: float = 0.5) -> None:
    """Flip one bit."""
    data = bytearray(file.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1
    file.write_bytes(data)


def faults(root: Path) -> None:
    """One rank or one file fails: all ranks raise the same error, and older checkpoints are unharmed."""
    said = {}
    with engine_of(1, "fp32", width=64) as engine:
        folders = []
        for _ in range(2):
            train_step(engine)
            folders.append(saver.save(engine, root, {}, keep_last=2, best=False))
        train_step(engine)
        said["full disk"] = message_of(lambda: save_with_little_room(engine, root))
        said["not JSON"] = message_of(
            lambda: saver.save(engine, root, {"best": float("nan")}, keep_last=2, best=False)
        )
        dist.barrier()
        said["left"] = sorted(path.name for path in (root / "checkpoints").iterdir())
        dist.barrier()
        if WORLD.is_main:
            checkpoint_files.write_pointer(root, "latest", folders[0])
        said["stale latest"] = found(engine, root)
        if WORLD.is_main:
            damage(folders[1] / "rank_00001.safetensors")
        said["damaged"] = found(engine, root)
        newest = saver.find_newest(engine, root)
        assert newest is not None
        for name, changes in {
            "other model": {"width": 12},
            "other optimizer": {"width": 64, **optimizer("SGD", momentum=0.9)},
        }.items():
            with engine_of(0, "fp32", **changes) as other:
                said[name] = message_of(lambda: saver.load(other, newest))
        if WORLD.is_main:
            (folders[0] / "state.json").unlink()
        said["all damaged"] = message_of(lambda: saver.find_newest(engine, root))
        said["none"] = found(engine, root / "elsewhere")
    emit(**said)


def found(engine: Engine, root: Path) -> list[str]:
    newest = saver.find_newest(engine, root)
    return [newest.path.name, *newest.skipped] if newest else []


def save_with_little_room(engine: Engine, root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not WORLD.is_main:
        # Less than its part, more than the log of this process.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        saver.save(engine, root, {}, keep_last=1, best=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def elsewhere(root: Path) -> None:
    """Rank 1 sees the directory a second late, as over NFS, and then not at all."""
    said = {}
    root.mkdir(exist_ok=True)
    with engine_of(1, "fp32") as engine:
        train_step(engine)
        dist.barrier()
        if not WORLD.is_main:
            assert ctypes.CDLL(None).unshare(0x20000) == 0  # a new mount namespace
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            hide(root)
            late = subprocess.Popen(["sh", "-c", f"sleep 1; umount '{root}'"])
        folder = saver.save(engine, root, {}, keep_last=1, best=False)
        said["late"] = [folder.name, checkpoint_files.open_checkpoint(folder).step]
        if not WORLD.is_main:
            assert late.wait() == 0
            hide(root)
        saver.VISIBLE_WITHIN_S = 1
        train_step(engine)
        said["never"] = message_of(lambda: saver.save(engine, root, {}, keep_last=1, best=False))
    emit(**said)


def hide(root: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", str(root)], check=True)


def endless(root: Path, stage: str) -> None:
    """Resume, then train and save until killed; emits the weights of each step before saving them."""
    with engine_of(int(stage), "fp32") as engine:
        newest = saver.find_newest(engine, root)
        if newest is not None:
            saver.load(engine, newest)
            tell(engine, "resumed")
        while True:
            train_step(engine)
            tell(engine, "trained")
            saver.save(engine, root, {}, keep_last=2, best=False)
            tell(engine, "saved")


def tell(engine: Engine, what: str) -> None:
    state = whole_state(engine)
    text = b"".join(state[key].numpy().tobytes() for key in sorted(state))
    if WORLD.is_main:
        emit(what=what, step=engine.deepspeed.global_steps, state=hashlib.sha256(text).hexdigest())


def refusals(_: Path) -> None:
    """Optimizers that a checkpoint cannot hold are rejected before the first step."""
    said = {}
    for name, stage, changes in (
        ("Adafactor", 0, optimizer("Adafactor")),
        ("AdamW", 2, {}),
    ):
        with engine_of(stage, "fp32", **changes) as engine:
            said[name] = message_of(lambda: check_supported(engine.deepspeed))
    if WORLD.is_main:
        emit(scenario="refusals", **said)


if __name__ == "__main__":
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    # As the engine does on CPU, so that no shared memory is left and nothing is compiled.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    dist.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['MEETING']}",
        rank=WORLD.rank,
        world_size=WORLD.world_size,
        timeout=datetime.timedelta(seconds=300),
    )
    scenarios, directory, *arguments = sys.argv[1:]
    for scenario in scenarios.split("+"):
        globals()[scenario](Path(directory), *arguments)
    destroy_process_group()
