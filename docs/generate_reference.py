"""Fill the generated parts of `docs/reference/config.md` and `docs/reference/cli.md` from the code.

    python -m docs.generate_reference            write both pages
    python -m docs.generate_reference --check    exit with code 1 if a page differs from the code

A part of a page between `<!-- generated: NAME -->` and `<!-- end -->` is replaced; the text around
it is written by hand. Keys, types, defaults and meanings come from the pydantic models in
`bertds/config`, and for keys that only DeepSpeed describes, from DeepSpeed's models. Commands and
flags come from the signatures and docstrings of the programs.
"""

import ast
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepspeed.comm.config import CommsLoggerConfig  # noqa: TID251
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig  # noqa: TID251
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config  # noqa: TID251
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # noqa: TID251
from deepspeed.runtime.zero.offload_config import (  # noqa: TID251
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bertds import errors
from bertds.config import deepspeed_schema, optimizer_schema, schema, unsupported_keys
from bertds.config.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "reference" / "config.md", ROOT / "docs" / "reference" / "cli.md")
PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
Command = Callable[..., Any]

BERTDS_BLOCKS: dict[str, type[BaseModel]] = {
    "": schema.BertdsConfig,
    "model": schema.ModelConfig,
    "data": schema.DataConfig,
    "data.train[]": schema.TrainSet,
    "data.valid.NAME": schema.ValidSet,
    "masking": schema.MaskingConfig,
    "run": schema.RunConfig,
    "run.batch_size_warmup": schema.BatchSizeWarmup,
    "run.mlflow": schema.MlflowConfig,
}
DEEPSPEED_BLOCKS: dict[str, type[BaseModel]] = {
    "": deepspeed_schema.DeepSpeedKeys,
    "bf16": deepspeed_schema.Bf16,
    "fp16": deepspeed_schema.Fp16,
    "zero_optimization": deepspeed_schema.Zero,
    "zero_optimization.offload_param": deepspeed_schema.OffloadParam,
    "zero_optimization.offload_optimizer": deepspeed_schema.OffloadOptimizer,
    "data_types": deepspeed_schema.DataTypes,
    "flops_profiler": deepspeed_schema.FlopsProfiler,
    "comms_logger": deepspeed_schema.CommsLogger,
    "tensorboard": deepspeed_schema.FileMonitor,
    "csv_monitor": deepspeed_schema.FileMonitor,
    "wandb": deepspeed_schema.Wandb,
    "comet": deepspeed_schema.Comet,
    "aio": deepspeed_schema.Aio,
}
DEEPSPEED_MODELS: dict[str, type[BaseModel]] = {
    "bf16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
    "zero_optimization": DeepSpeedZeroConfig,
    "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    "comms_logger": CommsLoggerConfig,
    "tensorboard": TensorBoardConfig,
    "csv_monitor": CSVConfig,
    "wandb": WandbConfig,
    "comet": CometConfig,
}
MEANINGS = {
    "comms_logger.enabled": "Log collectives.",
    "comms_logger.prof_all": "Log all operations.",
    "comms_logger.prof_ops": 'With `prof_all` false: the operations to log, such as "all_reduce".',
    "comms_logger.verbose": "Log each call at once.",
    "comms_logger.debug": "Add the name of the calling function.",
}
"""Keys that have no docstring in DeepSpeed."""
PROGRAMS = {
    "python -m data_prep": "data_prep.__main__",
    "python -m bertds": "bertds.__main__",
    "deepspeed launch/train.py": "launch.train",
    "python launch/job_status.py": "launch.job_status",
}
KEYS_BY_UNIT = {
    "batches": ["spike_skip"],
    "blocks": ["window"],
    "bytes": ["block_size"],
    "checkpoints": ["keep_last"],
    "elements": [
        *("allgather_bucket_size", "buffer_size", "max_in_cpu", "reduce_bucket_size"),
        *("stage3_max_live_parameters", "stage3_max_reuse_distance"),
        *("stage3_model_persistence_threshold", "stage3_param_persistence_threshold"),
        *("stage3_prefetch_bucket_size", "sub_group_size"),
    ],
    "epochs": [
        *("num_epochs", "decay_epochs", "stable_epochs", "total_epochs", "warmup_epochs"),
        "T_0_epochs",
    ],
    "GB": ["cache_gb"],
    "hours": ["max_hours"],
    "seconds": ["collective_timeout_s"],
    "sequences": ["from_size", "max_micro_batch_size", "multiple_of", "train_batch_size"],
    "standard deviations": ["spike_sigmas"],
    "steps": ["max_bad_steps", "max_steps", "profile_step", "spike_window", "steps_per_print"],
    "tokens": [
        *("local_attention", "max_position_embeddings", "max_tokens", "num_tokens", "seq_len"),
    ],
    "updates": [
        *("T_0", "cycle_first_step_size", "cycle_second_step_size", "decay_num_steps"),
        *("decay_step_size", "loss_scale_window", "stable_num_steps", "total_num_steps"),
        "warmup_num_steps",
    ],
}
UNITS = {key: unit for unit, keys in KEYS_BY_UNIT.items() for key in keys}


def generate(page: str) -> str:
    """Replace the generated parts of a page.

    Raises:
        KeyError: The page names a part that does not exist.
    """
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part['name']]()}\n\n{part[3]}", page)


def bertds_keys() -> str:
    """A section for each block of the `bertds` block."""
    return "\n\n".join(
        block_section(f"bertds.{path}".rstrip("."), path, block)
        for path, block in BERTDS_BLOCKS.items()
    )


def deepspeed_keys() -> str:
    """A section for each block of DeepSpeed's keys."""
    return "\n\n".join(
        block_section(path or "top level", path, block) for path, block in DEEPSPEED_BLOCKS.items()
    )


def optimizers() -> str:
    """A section for each optimizer."""
    return "\n\n".join(
        block_section(name, "optimizer.params", block)
        for name, block in optimizer_schema.OPTIMIZERS.items()
    )


def schedulers() -> str:
    """A section for each learning-rate schedule."""
    return "\n\n".join(
        block_section(name, "scheduler.params", block)
        for name, block in optimizer_schema.SCHEDULERS.items()
    )


def block_section(title: str, path: str, block: type[BaseModel]) -> str:
    """A heading, the docstring and the table of keys of one block."""
    described = deepspeed_fields(DEEPSPEED_MODELS[path]) if path in DEEPSPEED_MODELS else {}
    rows = []
    for name, field in block.model_fields.items():
        key = f"{path}.{name}" if path else name
        deepspeed_field, deepspeed_docstring = described.get(name, (field, ""))
        shown = deepspeed_field if field.annotation is Any else field
        unit = f", {UNITS[name]}" if name in UNITS else ""
        meaning = (
            field.description
            or deepspeed_docstring
            or nested_docstring(field.annotation)
            or MEANINGS.get(key, "")
        )
        rows.append([f"`{key}`", type_of(shown) + unit, default_of(shown), meaning])
    keys = table(["Key", "Type", "Default", "Meaning"], rows)
    return f"### `{title}`\n\n{inspect.getdoc(block)}\n\n{keys}"


def deepspeed_fields(model: type[BaseModel]) -> dict[str, tuple[FieldInfo, str]]:
    """The fields of a model of DeepSpeed by key, with the docstrings under them."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    docstrings = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            text = inspect.cleandoc(ast.literal_eval(following.value))
            docstrings[ast.unparse(statement.target)] = re.sub(r":any:|`(?=`)", "", text)
    return {
        field.alias or name: (field, docstrings.get(name, ""))
        for name, field in model.model_fields.items()
    }


def type_of(field: FieldInfo) -> str:
    """The type of a key and its bounds."""
    schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    return type_name({"": schema} | schema.get("$defs", {}), schema)


def type_name(definitions: dict[str, Any], schema: dict[str, Any]) -> str:
    """The type that a JSON schema describes."""
    options = schema.get("anyOf", [schema])
    (kind,) = [option for option in options if option.get("type") != "null"]
    if "$ref" in kind:
        kind = definitions[kind["$ref"].rpartition("/")[2]]
    if "enum" in kind:
        return " or ".join(f"`{json.dumps(value)}`" for value in kind["enum"])
    if kind.get("type") == "array":
        if "prefixItems" in kind:
            return f"list of {kind['maxItems']} numbers"
        item = type_name(definitions, kind["items"] or {"type": "string"})
        return f"list of {item if ' or ' in item else f'{item}s'}"
    if kind.get("type") in ("integer", "number"):
        name = "integer" if kind.get("multipleOf") == 1 else kind["type"]
        return " ".join([name, *bounds_of(name, kind)])
    if "type" not in kind:  # checked by a function, which no JSON schema describes
        return "interval"
    return {"boolean": "true or false", "string": "text", "object": "block"}[kind["type"]]


def bounds_of(name: str, kind: dict[str, Any]) -> Iterator[str]:
    """The bounds of a number, such as `≥ 1`."""
    if "exclusiveMinimum" in kind:
        lower = kind["exclusiveMinimum"]
        yield f"≥ {lower + 1}" if name == "integer" else f"> {lower}"
    elif "minimum" in kind:
        yield f"≥ {kind['minimum']}"
    if "exclusiveMaximum" in kind:
        yield f"and < {kind['exclusiveMaximum']}"
    elif "maximum" in kind and kind["maximum"] < 1e18:
        yield f"and ≤ {kind['maximum']}"


def default_of(field: FieldInfo) -> str:
    """A default as a case file writes it."""
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    is_large = isinstance(field.default, int | float) and 1e5 <= field.default < 1e18
    if is_large and float(f"{field.default:.0e}") == field.default:
        return f"`{field.default:.0e}`".replace("e+0", "e")
    return "not set" if field.default is None else f"`{json.dumps(field.default)}`"


def nested_docstring(annotation: object) -> str:
    """The first paragraph of the docstring of a key's block; empty if the key is no block."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return (inspect.getdoc(kind) or "").split("\n\n")[0]
    return ""


def presets() -> str:
    """What each preset sets in place of the default."""
    fields = schema.ModelConfig.model_fields
    rows = []
    for name, preset in PRESETS.items():
        changed = {
            key: value for key, value in preset.defaults.items() if value != fields[key].default
        }
        texts = [f"`{key}` {json.dumps(value)}" for key, value in changed.items()]
        rows.append([f"`{name}`", ", ".join(texts) or "nothing"])
    return table(["Preset", "Sets in place of the default"], rows)


def rejected_keys() -> str:
    """The keys of DeepSpeed that a case file may not set, grouped by reason."""
    keys_by_reason: dict[str, list[str]] = {}
    unsupported = unsupported_keys.UNSUPPORTED_KEYS | unsupported_keys.NESTED_AND_LEGACY_KEYS
    for key, reason in unsupported.items():
        keys_by_reason.setdefault(reason, []).append(f"`{key}`")
    rows = [[", ".join(keys), reason] for reason, keys in keys_by_reason.items()]
    return table(["Key", "Reason and remedy"], rows)


def case_files() -> str:
    """The case files of the repository with their arms."""
    rows = []
    for path in sorted((ROOT / "ds_configs").glob("*.json")):
        block = json.loads(path.read_text(encoding="utf-8"))["bertds"]
        arms = " ".join(f"`{arm}`" for arm in block.get("arms", {"main": {}}))
        rows.append([f"`{path.name}`", block["title"], arms])
    return table(["File", "Title", "Arms"], rows)


def commands() -> str:
    """A section for each command of each program."""
    sections = []
    for program, module_name in PROGRAMS.items():
        for name, function in commands_of(importlib.import_module(module_name)).items():
            sections.append(command_section(f"{program} {name}".rstrip(), function))
    return "\n\n".join(sections)


def commands_of(module: types.ModuleType) -> dict[str, Command]:
    """The functions of a program by command; a program of one command has no name for it."""
    if module.__name__ == "launch.train":
        return {"": module.main}
    if module.__name__ == "launch.job_status":
        return {"arm": module.arm, "steps": module.steps}
    found: dict[str, Command] = module.COMMANDS
    return found


def command_section(call: str, function: Command) -> str:
    """A heading, the call with its required arguments, the docstring and the flags of a command."""
    text, arguments, returns = docstring_parts(function)
    hints = typing.get_type_hints(function)
    required, rows = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        shown = name.rstrip("_")  # `from_` is the flag `--from`
        flag, default = f"`--{shown}`", f"`{parameter.default}`"
        if parameter.kind is parameter.VAR_POSITIONAL:
            required.append(f"[{shown.upper()} ...]")
            flag, default = f"`{shown.upper()} ...`", "none"
        elif parameter.default is parameter.empty:
            required.append(f"--{shown} {shown.upper()}")
            default = "required"
        elif hints[name] is bool:
            flag, default = f"`--{name}`, `--no{name}`", "on" if parameter.default else "off"
        elif parameter.default in (None, ""):
            default = "not set"
        rows.append([flag, flag_type(hints[name]), default, arguments[name]])
    usage = f"```sh\n{' '.join([call, *required])} [--FLAG VALUE ...]\n```"
    if returns:
        text += f"\n\nExit code: {returns}"
    flags = table(["Flag", "Type", "Default", "Meaning"], rows)
    return f"## `{call}`\n\n{text}\n\n{usage}\n\n{flags}"


def docstring_parts(function: Command) -> tuple[str, dict[str, str], str]:
    """The text, the arguments and the `Returns` of a docstring in Google's style."""
    doc = inspect.getdoc(function) or ""
    text, *sections = re.split(r"^(Args|Returns|Raises):\n", doc, flags=re.MULTILINE)
    by_name = dict(zip(sections[::2], sections[1::2], strict=True))
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", by_name.get("Args", ""), re.MULTILINE)
    return text.strip(), dict(entries), " ".join(by_name.get("Returns", "").split())


def flag_type(hint: Any) -> str:
    """The type of a flag's value as a user would call it."""
    options = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    if len(options) == 1 and typing.get_origin(options[0]) is typing.Literal:  # or None
        return flag_type(options[0])
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{option}`" for option in options)
    names = {str: "text", int: "integer", float: "number", bool: "switch", Path: "path"}
    return names[options[0] if options else hint]


def exit_codes() -> str:
    """The exit codes with the docstrings of `ExitCode`."""
    source = inspect.getsource(errors.ExitCode)
    rows = []
    for code in errors.ExitCode:
        docstring = re.search(rf'{code.name} = \d+\n    """(.*?)"""', source, re.DOTALL)
        rows.append([str(int(code)), f"`{code.name}`", docstring[1] if docstring else ""])
    return table(["Code", "Name", "Meaning"], rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a cell is one line."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(table_cell, line))} |" for line in lines)


def table_cell(text: str) -> str:
    """A text on one line, in which nothing is taken for markup but code between backticks."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    plain = [re.sub(r"<(?=\S)", "&lt;", part) for part in parts[::2]]
    parts[::2] = plain
    return "`".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "bertds-keys": bertds_keys,
    "presets": presets,
    "deepspeed-keys": deepspeed_keys,
    "optimizers": optimizers,
    "schedulers": schedulers,
    "rejected-keys": rejected_keys,
    "case-files": case_files,
    "commands": commands,
    "exit-codes": exit_codes,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that differ from the code."""
    stale = []
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = generate(before)
        if after == before:
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.write_text(after, encoding="utf-8")
    for path in stale if "--check" in arguments else []:
        sys.stderr.write(f"{path} differs from the code: run python -m docs.generate_reference\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
