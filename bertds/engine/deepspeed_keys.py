"""Check a case with DeepSpeed's own models, before a process group exists.

`bertds/config` rejects unknown keys, and needs no DeepSpeed for it. DeepSpeed's pydantic models
know the types and ranges of the other keys. But they convert values: to them, `"yes"` and 1 are
true. A value that they would convert is rejected here, except a whole number written as 5e8.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import BaseModel, ValidationError

from bertds.config.case import Case
from bertds.config.flatten import flatten
from bertds.config.messages import Problem, problems_error, problems_of, shown

MODELS: dict[str, type[BaseModel]] = {
    "bf16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
    "zero_optimization": DeepSpeedZeroConfig,
    "comms_logger": CommsLoggerConfig,
    "tensorboard": TensorBoardConfig,
    "csv_monitor": CSVConfig,
    "wandb": WandbConfig,
    "comet": CometConfig,
}
_MAX_SIZE = 9e18


def check_deepspeed_keys(case: Case) -> None:
    """Check the values in DeepSpeed's blocks of a case.

    Raises:
        ConfigError: DeepSpeed would reject a value, or convert it to another type.
    """
    problems = deepspeed_problems(case.deepspeed)
    if problems:
        raise problems_error(f"{case.name}.json (arm {case.arm})", problems)


def deepspeed_problems(content: Mapping[str, Any]) -> list[Problem]:
    """Find the values in DeepSpeed's blocks that it would reject, or convert to another type."""
    problems: list[Problem] = []
    for key, model in MODELS.items():
        values = content.get(key, {})
        try:
            block = model.model_validate(values)
        except ValidationError as error:
            problems += problems_of(key, model, error)
        else:
            converted = flatten(block.model_dump(mode="json", by_alias=True))
            problems += _converted(key, flatten(values), converted)
    return problems


def _converted(
    key: str, values: Mapping[str, Any], converted: Mapping[str, Any]
) -> Iterator[Problem]:
    for name, value in values.items():
        path = f"{key}.{name}"
        if value is not None and _type_of(value) is not _type_of(converted[name]):
            yield Problem(
                path,
                f"{path} is {shown(value)}, which DeepSpeed would read as "
                f"{shown(converted[name])}: write {shown(converted[name])}",
            )
        elif isinstance(value, int) and value > _MAX_SIZE:
            yield Problem(path, f"{path} is {value}, expected at most 9e18")


def _type_of(value: Any) -> type:
    """The type of a JSON value; all numbers are floats, but true and false are not numbers."""
    return float if type(value) is int else type(value)
