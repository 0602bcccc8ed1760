"""Convert a DeepSpeed configuration of another program to the content of a case file.

Such a file leaves values to its program ("auto", or a name in a template), repeats them in two
places, and has keys of older versions of DeepSpeed. Every change is recorded with its reason.
"""

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from bertds.config.deepspeed_schema import DYNAMIC_SCALE
from bertds.config.flatten import flatten
from bertds.config.messages import shown
from bertds.config.optimizer_schema import ONE_RATE, OPTIMIZERS, SCHEDULERS
from bertds.config.overrides import Json

# A variable that a template's program replaces; hjson keeps the rest of the line.
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]+,?(\s*(//|#|/\*).*)?")

_ZERO = "zero_optimization"
_TRANSFORMERS = "the default of transformers; set your own"
_AUTO: Json = {
    "train_batch_size": 8,
    "gradient_clipping": 1.0,
    "bf16.enabled": False,
    "fp16.enabled": False,
    "optimizer.params.lr": 5e-5,
    "optimizer.params.betas": [0.9, 0.999],
    "optimizer.params.eps": 1e-8,
    "optimizer.params.weight_decay": 0.0,
    "scheduler.params.warmup_min_lr": 0,
    "scheduler.params.warmup_num_steps": 1,
    f"{_ZERO}.stage": 0,
}
"""Values for "auto" that transformers takes from its command line, where it has a default."""

_REQUIRED: dict[str, tuple[Any, str]] = {
    "gradient_clipping": (1.0, "DeepSpeed's default"),
    "optimizer.type": ("AdamW", "the file leaves the optimizer to its program; set your own"),
    "optimizer.params.lr": (1e-4, "the rate of the BERT paper; set your own"),
    "optimizer.params.weight_decay": (0.01, "as in the BERT paper; set your own"),
}
_BERT_BASE: Json = {
    "preset": "bert-prenorm",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
_DATA: Json = {
    "train": [{"name": "corpus/train"}],
    "valid": {"corpus": {"name": "corpus/valid"}},
    "seq_len": 512,
}
_NUM_STEPS = 100_000


@dataclass(frozen=True)
class Conversion:
    """A configuration on its way to a case file."""

    source: Json
    """As it was read."""
    content: Json
    notes: dict[str, str] = field(default_factory=dict)
    """The reason of each change, by key."""

    @classmethod
    def of(cls, source: Json) -> "Conversion":
        """Start with a copy of a configuration."""
        return cls(source, copy.deepcopy(source))

    def get(self, key: str) -> Any:
        """Return a value by its path; None if there is none."""
        value: Any = self.content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def set(self, key: str, value: Any, reason: str) -> None:
        """Set or add a value."""
        *blocks, name = key.split(".")
        block = self.content
        for part in blocks:
            if not isinstance(block.get(part), dict):
                block[part] = {}
            block = block[part]
        block[name] = value
        self.notes[key] = reason

    def drop(self, key: str, reason: str) -> None:
        """Delete a key, if it is there."""
        *blocks, name = key.split(".")
        block: Any = self.content
        for part in blocks:
            block = block.get(part) if isinstance(block, dict) else None
        if isinstance(block, dict) and name in block:
            del block[name]
            self.notes[key] = reason

    def rename(self, old: str, new: str, value: Any = None) -> None:
        """Move a value to another key, unless that is given, with another value if stated."""
        if self.get(old) is None:
            return
        if self.get(new) is None:
            self.set(new, self.get(old) if value is None else value, f"from {old}")
        self.drop(old, f"now {new}")

    def lines(self) -> list[str]:
        """Say for each key of the source, then for each new one, what became of it."""
        before, after = flatten(self.source), flatten(self.content)
        lines = []
        for key, old in before.items():
            reason = self._reason(key)
            if key not in after:
                lines.append(f"dropped  {key} {shown(old)}: {reason}")
            elif after[key] != old:
                lines.append(f"changed  {key} {shown(old)} -> {shown(after[key])}: {reason}")
            else:
                lines.append(f"kept     {key} {shown(old)}")
        for key, new in after.items():
            if key not in before:
                lines.append(f"added    {key} {shown(new)}: {self._reason(key)}")
        return lines

    def _reason(self, key: str) -> str:
        """The reason of the change of a key, or of the nearest block around it."""
        parents = [key.rsplit(".", depth)[0] for depth in range(key.count(".") + 1)]
        return next((self.notes[each] for each in parents if each in self.notes), "")


def convert(conversion: Conversion) -> None:
    """Make the changes that need knowledge of other programs; a check finds the other mistakes."""
    _legacy_names(conversion)
    _values_of_the_program(conversion)
    fill_defaults(conversion)
    _precision_and_stage(conversion)
    _muon(conversion)
    _bertds_block(conversion)


def fill_defaults(conversion: Conversion) -> None:
    """Give values to required keys that are missing."""
    _batch(conversion)
    _optimizer(conversion)
    _scheduler(conversion)


def _legacy_names(config: Conversion) -> None:
    """Older names of DeepSpeed's keys."""
    if isinstance(config.get(_ZERO), bool):
        stage = int(config.get(_ZERO))
        config.set(_ZERO, {"stage": stage}, f"the same as {_ZERO}.stage {stage}")
    config.rename("bfloat16.enabled", "bf16.enabled")
    config.drop("bfloat16", "it is bf16 now, which needs no loss scale")
    config.rename("amp.enabled", "bf16.enabled")
    config.rename("optimizer.params.max_grad_norm", "gradient_clipping")
    config.rename("allgather_size", f"{_ZERO}.allgather_bucket_size")
    for old in ("fp32_allreduce", "allreduce_always_fp32"):
        if config.get(old) is True:
            config.rename(old, "communication_data_type", "fp32")
    for old, new in (
        ("cpu_offload", "offload_optimizer"),
        ("cpu_offload_param", "offload_param"),
        ("cpu_offload_params", "offload_param"),
    ):
        if config.get(f"{_ZERO}.{old}") is True:
            config.rename(f"{_ZERO}.{old}", f"{_ZERO}.{new}", {"device": "cpu"})


def _values_of_the_program(config: Conversion) -> None:
    """Values that the other program fills in: "auto", and names in a template."""
    for key, value in flatten(config.content).items():
        if value is None:
            config.drop(key, "the default is taken")
        if not isinstance(value, str) or not (value == "auto" or _PLACEHOLDER.fullmatch(value)):
            continue
        if key in _AUTO:
            config.set(key, _AUTO[key], _TRANSFORMERS)
        else:
            config.drop(key, "its program fills it in; the default is taken")


def _batch(config: Conversion) -> None:
    """One batch size; the micro-batch is a maximum."""
    micro = config.get("train_micro_batch_size_per_gpu")
    accumulation = config.get("gradient_accumulation_steps")
    has_micro = isinstance(micro, int) and micro > 0
    if config.get("train_batch_size") is None:
        steps = accumulation if isinstance(accumulation, int) else 1
        size = micro * steps if has_micro else _AUTO["train_batch_size"]
        reason = "micro-batch x accumulation, for one process; multiply by your number of them"
        config.set("train_batch_size", size, reason if has_micro else _TRANSFORMERS)
    if has_micro:
        key = "bertds.run.max_micro_batch_size"
        config.set(key, micro, "from train_micro_batch_size_per_gpu")
        config.drop("train_micro_batch_size_per_gpu", f"now {key}")


def _optimizer(config: Conversion) -> None:
    """The nearest optimizer, with DeepSpeed's defaults written out."""
    kind = config.get("optimizer.type")
    if isinstance(kind, str):
        known = {name.lower(): name for name in OPTIMIZERS}
        nearest = kind.lower().removeprefix("onebit").removeprefix("zeroone").removeprefix("fused")
        name = known.get(nearest, "AdamW")
        if name != kind:
            config.set("optimizer.type", name, "the nearest of those that bertds has")
        defaults = {"weight_decay": 0.0, "lr": 1e-3}
        defaults |= {"adam_w_mode": True} if name == "Adam" else {}
        for key, value in defaults.items():
            if config.get(f"optimizer.params.{key}") is None:
                config.set(f"optimizer.params.{key}", value, "DeepSpeed's default")
    for key, (value, reason) in _REQUIRED.items():
        if config.get(key) is None:
            config.set(key, value, reason)


def _scheduler(config: Conversion) -> None:
    """DeepSpeed's defaults written out, and one peak rate: the one that DeepSpeed uses."""
    kind, params = config.get("scheduler.type"), "scheduler.params"
    if not isinstance(kind, str) or kind not in SCHEDULERS:
        config.drop("scheduler", "bertds has no schedule of this type; the rate is constant")
        return
    if not isinstance(config.get(params), dict):
        config.set(params, {}, "DeepSpeed's defaults")
    fields = SCHEDULERS[kind].model_fields
    defaults = {"warmup_type": "log", "cycle_momentum": True, "warmup_num_steps": 1000}
    for key, value in defaults.items():
        if key in fields and config.get(f"{params}.{key}") is None:
            config.set(f"{params}.{key}", value, "DeepSpeed's default")
    if config.get(f"{params}.warmup_num_steps") == 0:
        config.set(f"{params}.warmup_num_steps", 1, "the lowest value allowed")
    for key in ("warmup_max_lr", "cycle_max_lr"):
        peak = config.get(f"{params}.{key}")
        if peak is None:
            continue
        if peak != config.get("optimizer.params.lr"):
            config.set("optimizer.params.lr", peak, f"from {params}.{key}, which DeepSpeed uses")
        config.drop(f"{params}.{key}", "the schedule follows optimizer.params.lr")
    if config.get(f"{params}.cycle_momentum") and config.get("optimizer.params.betas"):
        highest = config.get(f"{params}.cycle_max_mom") or 0.9
        config.set("optimizer.params.betas", [highest, 0.99], "what OneCycle sets")


def _muon(config: Conversion) -> None:
    """What differs between DeepSpeed's Muon and that of bertds."""
    if config.get("optimizer.type") != "Muon":
        return
    params = "optimizer.params"
    if config.get(f"{params}.adam_lr") is not None:
        if config.get(f"{params}.muon_lr") is None:
            config.set(f"{params}.muon_lr", config.get(f"{params}.lr"), f"from {params}.lr")
        config.set(f"{params}.lr", config.get(f"{params}.adam_lr"), f"from {params}.adam_lr")
        config.drop(f"{params}.adam_lr", f"now {params}.lr")
    if config.get("scheduler.type") in ONE_RATE:
        config.drop(f"{params}.muon_lr", "the scheduler gives all parameters one rate")
    config.set(f"{params}.adjust_lr_fn", "original", "the scale of DeepSpeed's Muon")
    for block in ("offload_optimizer", "offload_param"):
        config.drop(f"{_ZERO}.{block}", "Muon works without it")


def _precision_and_stage(config: Conversion) -> None:
    """Combinations that DeepSpeed 0.19.8 cannot train."""
    is_lamb, stage = config.get("optimizer.type") == "Lamb", _whole(config.get(f"{_ZERO}.stage"), 0)
    if config.get("bf16.enabled") and config.get("fp16.enabled"):
        config.set("fp16.enabled", False, "bf16 is enabled too")
    if is_lamb and config.get("fp16.enabled"):
        config.set("fp16.enabled", False, "Lamb needs stage 0, which has no loss scale")
        config.set("bf16.enabled", True, "instead of fp16")
    _loss_scale(config, is_lamb=is_lamb)
    if is_lamb and stage > 0:
        config.set(f"{_ZERO}.stage", 0, "Lamb compares the norms of whole layers")
        stage = 0
    if config.get("fp16.enabled") and stage == 0:
        config.set(f"{_ZERO}.stage", 1, "without it DeepSpeed does not scale the loss of fp16")
        stage = 1
    if stage != 3:
        config.drop(f"{_ZERO}.offload_param", "it needs stage 3")
    if stage == 0:
        config.drop(f"{_ZERO}.offload_optimizer", "it needs stage 1, 2 or 3")
    if config.get(f"{_ZERO}.offload_optimizer.device") == "nvme":
        reason = "checkpoints cannot include states on NVMe"
        config.set(f"{_ZERO}.offload_optimizer.device", "cpu", reason)
    if config.get("prescale_gradients"):
        config.drop("gradient_predivide_factor", "it has no effect with prescale_gradients true")


def _loss_scale(config: Conversion, *, is_lamb: bool) -> None:
    """A fixed scale, which Lamb does not take, or a dynamic one."""
    if is_lamb:
        config.drop("fp16.loss_scale", "DeepSpeed accepts Lamb only without a fixed loss scale")
    if config.get("fp16.loss_scale"):
        for key in DYNAMIC_SCALE:
            config.drop(f"fp16.{key}", "fp16.loss_scale is fixed")


def _bertds_block(config: Conversion) -> None:
    """A model, data and a length for the user to adapt."""
    config.set("bertds.model", dict(_BERT_BASE), "BERT base; set your own")
    config.set("bertds.data", copy.deepcopy(_DATA), "set the names of your shard sets")
    params = config.get("scheduler.params") or {}
    total = _whole(params.get("total_num_steps"), 0)
    if total > 0:
        config.set("bertds.run.max_steps", total, "from scheduler.params.total_num_steps")
        return
    first = _whole(params.get("cycle_first_step_size"), 2000 if "cycle_min_lr" in params else 0)
    cycle = first + _whole(params.get("cycle_second_step_size"), first)
    if cycle > 0:
        config.set("bertds.run.max_steps", cycle, "the length of the cycle")
    else:
        steps = max(_NUM_STEPS, 10 * _whole(params.get("warmup_num_steps"), 0))
        config.set("bertds.run.max_steps", steps, "the file has no length; set your own")


def _whole(value: Any, default: int) -> int:
    """A whole number; the default for any other value, which a check finds."""
    return value if isinstance(value, int) else default
