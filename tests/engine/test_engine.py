"""A step of the engine equals torch's own optimizers on the mean over masked tokens."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deepspeed.accelerator import get_accelerator

from bertds.config.batch import BatchSplit
from bertds.config.case import Case, read_case
from bertds.data.packing import MaskedSequences, PackedBatch, pack
from bertds.distributed.world import World
from bertds.engine.deepspeed_config import (
    check_device,
    limit_bucket,
    warn_of_one_host,
    warn_of_stage_0,
)
from bertds.engine.engine import Engine
from bertds.errors import ConfigError
from bertds.model.batch import DeviceBatch
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import ScheduleLengths
from bertds.optim.param_groups import no_decay, parameter_groups

VOCAB_SIZE = 50
BASE: dict[str, Any] = {
    "train_batch_size": 8,
    "gradient_clipping": 0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 1e-2, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.1},
    },
    "bertds": {
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 16,
            "hidden_dropout_prob": 0.0,
        },
        "data": {"train": [{"name": "none"}], "seq_len": 16},
        "run": {"max_steps": 10, "max_micro_batch_size": 4},
    },
}


def case_of(tmp_path: Path, settings: str = "", **changes: Any) -> Case:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE | changes))
    return read_case(path, "main", settings)


def packs(step: int, count: int, row_length: int = 16) -> list[PackedBatch]:
    """Micro-batches with different numbers of masked tokens; row length 0 is the varlen layout."""
    generator = np.random.default_rng(step)
    made = []
    for number in range(count):
        lengths = generator.integers(2, 16, 4)
        tokens = generator.integers(5, VOCAB_SIZE, lengths.sum())
        masked = np.sort(generator.choice(tokens.size, 2 + 3 * number, replace=False))
        sequences = MaskedSequences.masked_at(masked, tokens=tokens, inputs=tokens, lengths=lengths)
        made.append(pack(sequences, row_length=row_length, pad_id=0))
    return made


def build(case: Case, device: torch.device) -> tuple[Engine, MaskedLanguageModel]:
    """The engine, and a copy of its model that torch alone trains."""
    torch.manual_seed(0)
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    twin = copy.deepcopy(model)
    split = BatchSplit(micro_batch_size=4, accumulation=2)
    return Engine.build(case, model, World(), device, split, ScheduleLengths(5, 10)), twin


def mean_loss(model: MaskedLanguageModel, step_packs: list[PackedBatch]) -> torch.Tensor:
    logits, labels = [], []
    for one in step_packs:
        logits.append(model.logits(tensors(one)))
        labels.append(torch.from_numpy(one.labels))
    return F.cross_entropy(torch.cat(logits), torch.cat(labels))


def tensors(one: PackedBatch) -> DeviceBatch:
    arrays = (one.inputs, one.positions, one.segments, one.cumulative, one.masked, one.labels)
    return DeviceBatch(*map(torch.from_numpy, arrays), one.rows, one.max_length)


def same_weights(engine: Engine, twin: MaskedLanguageModel) -> None:
    ours = dict(engine.deepspeed.module.named_parameters())
    for name, theirs in twin.named_parameters():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-5, atol=1e-6, msg=name)


# Attention does not depend on the key bias. Its gradient is rounding noise, which Adam would scale to
# full steps with a smaller epsilon.
EPS = 1e-4
OPTIMIZERS = {
    "coupled": (
        {
            "type": "Adam",
            "params": {"lr": 1e-2, "eps": EPS, "weight_decay": 0.1, "adam_w_mode": False},
        },
        torch.optim.Adam,
    ),
    "adam_as_adamw": (
        {
            "type": "Adam",
            "params": {"lr": 1e-2, "eps": EPS, "weight_decay": 0.1, "adam_w_mode": True},
        },
        torch.optim.AdamW,
    ),
    "adamw": (
        {"type": "AdamW", "params": {"lr": 1e-2, "eps": EPS, "weight_decay": 0.1}},
        torch.optim.AdamW,
    ),
}


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_torch(name: str, stage: int, device: torch.device, tmp_path: Path) -> None:
    """Coupled L2 and decoupled decay, two micro-steps with unequal numbers of masked tokens."""
    block, torch_optimizer = OPTIMIZERS[name]
    case = case_of(tmp_path, optimizer=block, zero_optimization={"stage": stage})
    engine, twin = build(case, device)
    groups = parameter_groups(twin, no_decay(case))
    optimizer = torch_optimizer(groups, lr=1e-2, weight_decay=0.1, eps=EPS)
    for step in range(5):
        step_packs = packs(step, 2)
        loss = mean_loss(twin, step_packs)
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in twin.parameters()]
        norm = torch.linalg.vector_norm(torch.stack([g.double().norm() for g in gradients]))
        optimizer.step()
        sums = engine.train_step(step_packs, step, stop=False).sums()
        assert sums.mean_loss == pytest.approx(loss.item(), rel=1e-6)
        assert float(engine.grad_norm) == pytest.approx(norm.item(), rel=1e-5)
        same_weights(engine, twin)
    engine.close()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_bucket_is_no_larger_than_the_model(
    stage: int, device: torch.device, tmp_path: Path
) -> None:
    """Unless the case gives its size."""
    engine, twin = build(case_of(tmp_path, zero_optimization={"stage": stage}), device)
    size = sum(parameter.numel() for parameter in twin.parameters())
    assert engine.deepspeed.zero_reduce_bucket_size() == size
    engine.train_step(packs(0, 2), 0, stop=False)
    engine.close()
    large = {"zero_optimization": {"stage": stage}}
    limit_bucket(large, 700_000_000)
    assert large["zero_optimization"]["reduce_bucket_size"] == 500_000_000
    given = {"zero_optimization": {"stage": stage, "reduce_bucket_size": 7e8}}
    limit_bucket(given, size)
    assert given["zero_optimization"]["reduce_bucket_size"] == 7e8


def test_clipping_limits_the_norm(device: torch.device, tmp_path: Path) -> None:
    """A clipped step moves the weights as a gradient of the limit's norm would."""
    block = {"type": "AdamW", "params": {"lr": 1e-2, "weight_decay": 0, "eps": 1.0}}
    case = case_of(tmp_path, optimizer=block, gradient_clipping=0.01)
    engine, twin = build(case, device)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0, eps=1.0)
    mean_loss(twin, packs(0, 2)).backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
    optimizer.step()
    engine.train_step(packs(0, 2), 0, stop=False)
    assert float(engine.grad_norm) == pytest.approx(float(norm), rel=1e-4)
    same_weights(engine, twin)
    engine.close()


def test_dropout_depends_on_step_rank_and_micro_step_only(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is derived from the position, so no generator state has to be saved."""
    drawn: list[int] = []
    engine, _ = build(case_of(tmp_path), device)

    def seeds(rank: int, seed: int) -> list[int]:
        drawn.clear()
        engine.world = World(rank=rank, world_size=2)
        engine.seed = seed
        for step in range(2):
            for number in range(2):
                engine._micro_step(packs(0, 1)[0], torch.ones(()), step, number)
        return list(drawn)

    manual_seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda s: drawn.append(s) or manual_seed(s))
    places = [seeds(rank, seed) for rank in (0, 1) for seed in (3, 4)]
    assert seeds(0, 3) == places[0]
    every = [seed for place in places for seed in place]
    assert len(every) == len(set(every)) == 16
    engine.close()


def test_the_logged_learning_rate_is_the_one_used(device: torch.device, tmp_path: Path) -> None:
    """DeepSpeed's warm-up makes its first two updates at rate 0, and the log shows it."""
    scheduler = {"type": "WarmupLR", "params": {"warmup_num_steps": 4, "warmup_type": "linear"}}
    case = case_of(tmp_path, scheduler=scheduler)
    engine, _ = build(case, device)
    rates = []
    for step in range(6):
        before = [p.detach().clone() for p in engine.deepspeed.module.parameters()]
        engine.train_step(packs(step, 2), step, stop=False)
        rates.append(engine.learning_rate)
        after = list(engine.deepspeed.module.parameters())
        moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert moved == (engine.learning_rate > 0)
    assert rates == pytest.approx([0, 0, 2.5e-3, 5e-3, 7.5e-3, 1e-2])
    engine.close()


def test_a_custom_schedule_applies_from_the_first_step(
    device: torch.device, tmp_path: Path
) -> None:
    scheduler = {"type": "WarmupLinearLR", "params": {"warmup_num_steps": 2}}
    engine, _ = build(case_of(tmp_path, scheduler=scheduler), device)
    rates = []
    for step in range(10):
        engine.train_step(packs(step, 2), step, stop=False)
        rates.append(engine.learning_rate / 1e-2)
    assert rates == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    engine.close()


def test_bf16_starts_without_an_extra_step(device: torch.device, tmp_path: Path) -> None:
    """At stage 0 DeepSpeed's wrapper steps once on zero gradients; coupled decay would reveal it."""
    block = {"type": "Adam", "params": {"lr": 1e-2, "weight_decay": 0.1, "adam_w_mode": False}}
    losses = []
    for stage in (0, 1):
        case = case_of(
            tmp_path,
            optimizer=block,
            bf16={"enabled": True},
            zero_optimization={"stage": stage},
        )
        engine, _ = build(case, device)
        steps = [engine.train_step(packs(s, 2), s, stop=False).sums().mean_loss for s in range(4)]
        losses.append(steps)
        engine.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_evaluation_does_not_depend_on_batching(device: torch.device, tmp_path: Path) -> None:
    """The sums are additive, and dropout is off."""
    case = case_of(tmp_path, "model.hidden_dropout_prob=0.5")
    engine, _ = build(case, device)
    parts = [packs(step, 2) for step in range(3)]
    whole = engine.evaluate((one for part in parts for one in part), mask_id=4)
    pieces = [engine.evaluate(part, mask_id=4) for part in parts]
    assert sum(p.loss for p in pieces) == pytest.approx(whole.loss, rel=1e-9)
    assert sum(p.masked for p in pieces) == whole.masked
    engine.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a CPU cannot do")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fp16": {"enabled": True}, "zero_optimization": {"stage": 1}}, "fp16"),
        ({"optimizer": {"type": "Lion", "params": {"lr": 1, "weight_decay": 0}}}, "Lion"),
        ({"bertds": BASE["bertds"] | {"run": {"max_steps": 1, "device": "cuda"}}}, "no GPU on"),
        (
            {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
            "zero_optimization.zero_quantized_weights is true, .* on GPU only: delete it here",
        ),
        ({"aio": {"use_gds": True}}, "aio.use_gds is true, which .* on GPU only"),
    ],
)
def test_what_a_cpu_cannot_run_is_rejected(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_device(case_of(tmp_path, **changes), World())


def test_nvme_needs_a_module_that_can_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvme = {"device": "nvme", "nvme_path": "/scratch"}
    case = case_of(tmp_path, zero_optimization={"stage": 3, "offload_param": nvme})
    builder = get_accelerator().create_op_builder("AsyncIOBuilder")
    monkeypatch.setattr(type(builder), "is_compatible", lambda *_, **__: True)
    check_device(case, World())
    monkeypatch.setattr(type(builder), "is_compatible", lambda *_, **__: False)
    with pytest.raises(ConfigError, match=r'offload_param.device is "nvme", .* .libaio-dev'):
        check_device(case, World())


def test_groups_of_processes_and_hosts(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    zero = {"stage": 3, "zero_hpz_partition_size": 4, "zero_quantized_gradients": True}
    case = case_of(tmp_path, zero_optimization=zero)
    for size in (1, 2, 4, 8):  # a group is at most all processes
        check_device(case, World(world_size=size, local_size=1))
    with pytest.raises(ConfigError, match="hpz_partition_size is 4, .* the 6 processes"):
        check_device(case, World(world_size=6, local_size=1))
    warn_of_one_host(case, World(world_size=8, local_size=4))
    assert "zero_quantized_gradients" not in told.text
    warn_of_one_host(case, World(world_size=4, local_size=4))
    assert "zero_quantized_gradients is true, which has no effect on one host" in told.text


def test_16_bits_at_stage_0_are_a_warning_on_a_gpu(
    tmp_path: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bf16 = {"bf16": {"enabled": True}}
    slow = case_of(tmp_path, **bf16)
    warn_of_stage_0(slow)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    warn_of_stage_0(case_of(tmp_path, **bf16, zero_optimization={"stage": 1}))
    warn_of_stage_0(case_of(tmp_path))
    assert not told.text
    warn_of_stage_0(slow)
    assert "zero_optimization.stage is 0 with bf16.enabled, " in told.text
    assert "stage 1 waits once per step" in told.text


def test_fewer_gpus_than_processes_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single visible GPU may differ for each process, as with `srun --gpus-per-task=1`."""
    case, world = case_of(tmp_path), World(world_size=8, local_size=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count in (1, 4, 8):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        check_device(case, world)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match="4 processes on .* see 3 GPUs"):
        check_device(case, world)
