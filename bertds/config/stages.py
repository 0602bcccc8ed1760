"""The stages of a run: named patches of a case file that one run goes through in their order.

Each stage is the file with its patch applied, as an arm is. Weights and moments are kept from one
stage to the next, so a stage may change everything that they do not depend on.
"""

from collections.abc import Iterator, Mapping

from bertds.config.deepspeed_schema import CaseFile
from bertds.config.flatten import flatten
from bertds.config.messages import Problem, shown
from bertds.config.overrides import Json, patch_arm
from bertds.config.schema import NAME_PATTERN

# Shapes of weights, or what a head or a row of them means, depend on these keys of the model.
_SHAPES = (
    "preset",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "pad_vocab_to_multiple_of",
    "type_vocab_size",
    "norm",
    "positions",
    "feed_forward",
    "bias",
    "tie_word_embeddings",
)
_OF_A_STAGE = (
    "num_epochs",
    "max_steps",
    "max_tokens",
    "batch_size_warmup",
    "log_every",
    "eval_every",
    "save_every",
    "max_micro_batch_size",
    "compile",
)
"""Keys of `run` that a stage may change; the others belong to the whole run."""


def stage_contents(content: Json) -> dict[str, Json]:
    """Return the content of each stage by its name; without stages, the content under no name."""
    block = content.get("bertds")
    stages = block.get("stages") if isinstance(block, dict) else None
    if not stages:
        return {"": content}
    base = content | {"bertds": {k: v for k, v in content["bertds"].items() if k != "stages"}}
    return {
        stage["name"]: patch_arm(base, {key: v for key, v in stage.items() if key != "name"})
        for stage in stages
    }


def follows_whole_run(content: Json, name: str) -> bool:
    """Return whether a stage follows the schedule of the file, which is one over all stages.

    Args:
        content: The content of the file.
        name: The stage; it has a schedule of its own if its patch has the key.
    """
    return any(
        stage["name"] == name and "scheduler" not in stage for stage in content["bertds"]["stages"]
    )


def with_length(stage: Json, num_steps: int) -> Json:
    """Return the content of a stage as if it were a run of this length."""
    run = {"max_steps": num_steps, "num_epochs": None, "max_tokens": None}
    return patch_arm(stage, {"bertds": {"run": run}})


def malformed_stages(content: Json) -> list[Problem]:
    """Describe what keeps the list of stages from being read."""
    block = content.get("bertds")
    stages = block.get("stages", []) if isinstance(block, dict) else []
    key = "bertds.stages"
    if not isinstance(stages, list):
        return [Problem(key, f"{key} is {shown(stages)}, expected a list of patches")]
    problems, names = [], set()
    for number, stage in enumerate(stages):
        if text := _malformed(f"{key}[{number}]", stage):
            problems.append(Problem(key, text))
        elif stage["name"] in names:
            text = f"{key} has two stages with the name {stage['name']}: give them different names"
            problems.append(Problem(key, text))
        else:
            names.add(stage["name"])
    return problems


def _malformed(key: str, stage: object) -> str:
    """Describe what keeps a stage from being applied; empty if nothing does."""
    if not isinstance(stage, dict):
        return f"{key} is {shown(stage)}, expected a patch with a name"
    if "name" not in stage:
        keys = ", ".join(map(str, stage)) or "no keys"
        return f"the key {key}.name is missing: add it (the stage has {keys})"
    name = stage["name"]
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        return f"{key}.name is {shown(name)}, expected a plain name (letters, digits, _.+-)"
    block = stage.get("bertds", {})
    nested = {"stages", "arms"} & block.keys() if isinstance(block, dict) else ()
    return "".join(f"{key}.bertds.{each} is not allowed: remove it" for each in sorted(nested)[:1])


def invalid_changes(stages: Mapping[str, CaseFile]) -> Iterator[Problem]:
    """Describe each change between stages that a run cannot make."""
    (first_name, first), *others = stages.items()
    if first.bertds.run.branch_from is not None:
        yield Problem(
            "bertds.run.branch_from",
            "run.branch_from is set, but the run has stages, which cannot branch: leave one of them out",
        )
    for name, stage in others:
        before, after = (flatten(file.model_dump()) for file in (first, stage))
        for key in sorted(before.keys() | after.keys()):
            reason = _why_fixed(key, first)
            if reason and before.get(key) != after.get(key):
                yield Problem(
                    key,
                    f"stage {name} changes {key} from {shown(before.get(key))} in stage {first_name} "
                    f"to {shown(after.get(key))}, but {reason}: keep it",
                )


def _why_fixed(key: str, file: CaseFile) -> str:
    """Return why a key has one value in all stages; empty if it may change."""
    block, _, name = key.rpartition(".")
    if block == "bertds.model" and name in _SHAPES:
        return "the weights depend on it"
    if name == "max_position_embeddings" and file.bertds.model.positions == "learned":
        return "the table of learned positions depends on it"
    if key == "optimizer.type":
        return "the moments of the optimizer are kept"
    parts = key.split(".")
    if parts[:2] == ["bertds", "run"] and parts[2] not in _OF_A_STAGE:
        return "it belongs to the whole run"
    if key in ("bertds.data.lanes", "bertds.data.cache_dir", "bertds.data.cache_gb"):
        return "it belongs to the whole run"
    return ""
