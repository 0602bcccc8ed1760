"""A case file is resolved exactly, and a mistake is rejected with one message."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bertds.config.case import list_arms, read_case
from bertds.errors import ConfigError
from tests.helpers.launching import ROOT

CONFIGS = ROOT / "ds_configs"
GONE = object()
BASE: dict[str, Any] = {
    "train_batch_size": 256,
    "gradient_clipping": 0,
    "optimizer": {
        "type": "Adam",
        "params": {
            "lr": 5e-4,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0,
            "adam_w_mode": False,
        },
    },
    "scheduler": {"type": "WarmupExponentialLR", "params": {"warmup_epochs": 1, "gamma": 0.96}},
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 1},
    "bertds": {
        "title": "what is compared",
        "model": {
            "preset": "bert-prenorm",
            "hidden_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
            "max_position_embeddings": 256,
        },
        "data": {
            "train": [{"name": "5k/en/train", "fraction": 0.2}],
            "valid": {"en": {"name": "5k/en/valid"}},
            "seq_len": 256,
        },
        "masking": {"mode": "dynamic", "ratio": 0.15},
        "run": {"num_epochs": 140, "log_every": 50, "eval_every": "1 epoch"},
        "arms": {
            "one": {},
            "two": {"train_batch_size": 128},
            "cosine": {"scheduler": {"type": "CosineAnnealingWarmRestarts", "params": {"T_0": 5}}},
        },
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """BASE with another value at a dotted path; GONE deletes it."""
    content = copy.deepcopy(BASE)
    *blocks, key = path.split(".")
    block: Any = content
    for name in blocks:
        block = block[int(name)] if isinstance(block, list) else block.setdefault(name, {})
    if value is GONE:
        del block[key]
    else:
        block[key] = value
    return content


@pytest.fixture
def write(tmp_path):
    def write_file(content: Any, name: str = "case1.json") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


@pytest.fixture
def base(write):
    return write(BASE)


def check_lines(message: str) -> None:
    """One line for one problem; a line for each of several, after their number."""
    first, *problems = message.splitlines()
    assert not problems or first.endswith(f": {len(problems)} problems")
    assert len(problems) != 1
    assert all(re.match(r"  \S", problem) for problem in problems)


def rejection(path: Path, arm: str = "one", given: str = "") -> str:
    """The error message, after the checks that all messages must pass."""
    with pytest.raises(ConfigError) as rejected:
        read_case(path, arm, given)
    message = str(rejected.value)
    check_lines(message)
    assert "pydantic" not in message
    assert len(message) < 900
    assert rejected.value.code == 2
    return message


def test_an_arm_is_a_patch_of_the_file(base):
    case = read_case(base, "one")
    resolved = changed("bertds.arms", GONE)
    assert case.resolved == resolved
    assert case.deepspeed == {key: value for key, value in resolved.items() if key != "bertds"}
    case = read_case(base, "two")
    assert (case.name, case.arm, case.train_batch_size) == ("case1", "two", 128)
    assert read_case(base, "cosine").deepspeed["scheduler"]["params"] == {"T_0": 5}


def test_a_file_without_arms_has_one(write):
    content = changed("bertds.arms", GONE)
    path = write(content)
    (arm,) = list_arms(path)
    assert (arm.name, arm.run_arm, arm.same_as, arm.path) == ("main", "main", "case1/main", path)
    assert read_case(path, "main").resolved == content


def test_an_arm_may_be_the_run_of_another_case(write):
    first = write(BASE, "case1.json")
    second = write(changed("bertds.arms", {"a": {"same_as": "case1/two"}, "b": {}}), "case2.json")
    arms = list_arms(second)
    assert [arm.same_as for arm in arms] == ["case1/two", "case2/b"]
    assert read_case(arms[0].path, arms[0].run_arm) == read_case(first, "two")


@pytest.mark.parametrize(
    "patch",
    [
        {"same_as": "case1/nowhere"},
        {"same_as": "case9/one"},
        {"same_as": "case1"},
        {"same_as": 3},
        {"same_as": "../case1/one"},
        {"same_as": "case2/a"},  # itself
        {"same_as": "case1/two", "train_batch_size": 3},
    ],
)
def test_same_as_must_name_a_run(write, patch):
    write(BASE, "case1.json")
    path = write(changed("bertds.arms", {"a": patch}), "case2.json")
    with pytest.raises(ConfigError, match="arm 'a' has same_as .* expected the <case>/<arm>"):
        list_arms(path)


@pytest.mark.parametrize("arms", [[], {}, None, 3, {"a": 3}, {"a": None}])
def test_arms_are_named_patches(write, arms):
    assert "expected a block" in rejection(write(changed("bertds.arms", arms)), "a")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "a\n", "ä", "-x"])
def test_an_arm_name_must_be_a_valid_directory_name(write, name):
    path = write(changed("bertds.arms", {name: {}}))
    assert "must be a plain file name" in rejection(path, name)


def test_an_unknown_arm(base):
    assert rejection(base, "cosin").endswith("no arm 'cosin': did you mean 'cosine'?")
    assert rejection(base, "xyz").endswith("expected one of cosine, one, two")


def test_a_missing_file(tmp_path, write):
    write(BASE)
    assert "did you mean 'case1.json'?" in rejection(tmp_path / "case1.jsn")
    assert rejection(tmp_path).endswith("is a directory, and not a file: name a case file in it")
    assert f"the directory {tmp_path / 'no'} does not exist" in rejection(
        tmp_path / "no" / "a.json"
    )
    for unlike in ("dapt.json", "plan.json", "ds.json"):
        assert rejection(tmp_path / unlike).endswith(f"{unlike} is not a file")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is not JSON"),
        ('{"a": 1,}', "is not JSON"),
        ('{"a": 1} // comment', "is not JSON"),
        ("[]", 'has no block "bertds"'),
        ("{}", 'has no block "bertds"'),
        ('{"bertds": []}', 'has no block "bertds"'),
        ('{"fp16": {}}', "or use python -m bertds import-config"),
        ('{"bertds": {"run": {"seed": 1, "seed": 2}}}', "the key 'seed' occurs twice"),
        (r'{"bertds": {"title": "a\ud800"}}', "ud800' is half of a character"),
        ('{"bertds": {}, "x": NaN}', "NaN is not allowed: give a finite number"),
        ('{"bertds": {}, "x": -Infinity}', "-Infinity is not allowed: give a finite number"),
        ('{"bertds": {}, "x": 1e999}', "1e999 is larger than the largest float"),
        ('{"bertds": {}, "x": ' + "9" * 5000 + "}", "has more than 19 digits"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (5 << 20), "this is not a case file"),
    ],
)
def test_a_file_that_is_not_a_case(write, text, part):
    assert part in rejection(write(text))


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "case1.json"
    path.write_bytes(b'{"bertds": "\xff\xfe"}')
    assert "is not JSON" in rejection(path)


# One row for each kind of message, and for each check that test_mutations.py does not reach.
MUTATIONS = [
    ("train_batch_size", GONE, "the key train_batch_size is missing: add it"),
    ("train_batch_size", "256", 'train_batch_size is "256", expected a whole number'),
    ("train_batch_size", 256.5, "train_batch_size is 256.5, expected a whole number"),
    ("train_batch_size", 0, "train_batch_size is 0, expected more than 0"),
    ("train_batch_size", True, "train_batch_size is true, expected a whole number"),
    ("train_batch_size", None, "train_batch_size is null, expected a whole number"),
    ("train_batch_size", "auto", 'train_batch_size is "auto", which is not supported: give a'),
    ("train_batch_sise", 256, "unknown key 'train_batch_sise': did you mean 'train_batch_size'?"),
    ("gradient_clipping", GONE, "the key gradient_clipping is missing: add it"),
    ("gradient_clipping", -1, "gradient_clipping is -1, expected at least 0"),
    ("gradient_accumulation_steps", 2, "may not be set: it is derived from run.max_micro_batch"),
    ("checkpoint", {}, "checkpoint may not be set: bertds has its own checkpoint format"),
    ("amp", {"enabled": True}, "amp may not be set: DeepSpeed 0.19 has removed it, use bf16"),
    ("a\nb", 1, "unknown key 'a\\nb'"),
    # optimizer
    ("optimizer", "Adam", 'optimizer is "Adam", expected a block'),
    ("optimizer.type", GONE, "the key optimizer.type is missing: add it"),
    ("optimizer.type", "adam", "optimizer.type is \"adam\": did you mean 'Adam'?"),
    ("optimizer.type", "OneBitAdam", '"OneBitAdam": expected one of Adam, AdamW, Lamb, Lion'),
    ("optimizer.type", 3, "optimizer.type is 3, expected a string"),
    ("optimizer.params", [1], "optimizer.params is [1], expected a block"),
    ("optimizer.params.lr", 0, "optimizer.params.lr is 0, expected more than 0"),
    ("optimizer.params.lr", "auto", 'optimizer.params.lr is "auto", which is not supported'),
    ("optimizer.params.weight_decay", GONE, "the key optimizer.params.weight_decay is missing"),
    ("optimizer.params.weight_decay", -0.1, "weight_decay is -0.1, expected at least 0"),
    ("optimizer.params.weight_decy", 0.1, "'optimizer.params.weight_decy': did you mean 'weight_"),
    ("optimizer.params.adam_w_mode", GONE, "the key optimizer.params.adam_w_mode is missing"),
    ("optimizer.params.adam_w_mode", 0, "params.adam_w_mode is 0, expected true or false"),
    ("optimizer.params.betas", [0.9], "optimizer.params.betas.1 is missing"),
    ("optimizer.params.betas", [0.9, 0.99, 0.9], "betas is [0.9, 0.99, 0.9], expected at most 2"),
    ("optimizer.params.betas", [0.9, 1], "optimizer.params.betas.1 is 1, expected less than 1"),
    ("optimizer.params.betas", 0.9, "optimizer.params.betas is 0.9, expected a list"),
    # scheduler
    ("scheduler.type", "CosineLR", "did you mean 'WarmupCosineLR'?"),
    ("scheduler.type", "WarmupLR", "unknown key 'scheduler.params.gamma'"),
    ("scheduler.params.gama", 1, "unknown key 'scheduler.params.gama': did you mean 'gamma'?"),
    ("scheduler.params.gamma", GONE, "the key scheduler.params.gamma is missing: add it"),
    ("scheduler.params.gamma", 1.5, "scheduler.params.gamma is 1.5, expected at most 1"),
    ("scheduler.params.warmup_epochs", GONE, "give one of warmup_num_steps and warmup_epochs"),
    ("scheduler.params.warmup_num_steps", 5, "give one of warmup_num_steps and warmup_epochs"),
    # precision and ZeRO
    ("bf16", True, "bf16 is true, expected a block"),
    ("bf16.enabled", "true", 'bf16.enabled is "true", expected true or false'),
    ("bf16.enable", True, "unknown key 'bf16.enable': did you mean 'enabled'?"),
    ("bf16.check_grad_overflow", False, "bf16: check_grad_overflow is false"),
    ("bf16.bf16_optimizer_states", True, "which needs bf16_master_weights_and_grads true"),
    ("bf16.bf16_master_weights_and_grads", True, 'offload_optimizer with device "cpu"'),
    ("fp16.fp16_master_weights_and_grads", True, 'offload_optimizer with device "cpu"'),
    ("fp16.enabled", True, "bf16 and fp16 are both enabled: enable one"),
    ("fp16.loss_scale", "0", 'fp16.loss_scale is "0", expected a number'),
    ("zero_optimization.stage", 4, "zero_optimization.stage is 4, expected at most 3"),
    ("zero_optimization.stage", True, "zero_optimization.stage is true, expected a whole number"),
    ("zero_optimization.overlap_com", 1, "'zero_optimization.overlap_com': did you mean 'overlap_"),
    ("zero_optimization.allgather_bucket_size", 0.5, "is 0.5, expected a whole number"),
    ("zero_optimization.allgather_bucket_size", 5, "size is 5, expected an even number"),
    ("zero_optimization.offload_param", {"device": "cpu"}, "offload_param needs stage 3"),
    ("zero_optimization.offload_optimizer", {"devise": "cpu"}, "did you mean 'device'?"),
    ("zero_optimization.offload_optimizer", {"device": "gpu"}, '"none", "cpu" or "nvme"'),
    ("zero_optimization.offload_optimizer", {"device": "nvme"}, "but nvme_path is missing"),
    (
        "zero_optimization.offload_optimizer",
        {"device": "nvme", "nvme_path": "/scratch"},
        "where checkpoints cannot include them",
    ),
    ("zero_optimization.offload_optimizer", {"device": "cpu", "ratio": 0.5}, "set device to "),
    ("zero_optimization.offload_optimizer", {"super_offload": True}, "remove super_offload"),
    ("data_types.grad_accum_dtype", "fp64", 'expected "fp32", "fp16" or "bf16"'),
    ("flops_profiler.profile_step", "5", 'flops_profiler.profile_step is "5", expected a whole'),
    ("comet.api_key", "secret", "set the environment variable COMET_API_KEY"),
    # the bertds block
    ("bertds.modle", {}, "unknown key 'bertds.modle': did you mean 'model'?"),
    ("bertds.model.hidden_size", 500, "num_attention_heads is 8, which does not divide hidden_s"),
    ("bertds.model.preset", "gpt2", 'bertds.model.preset is "gpt2", expected "bert"'),
    ("bertds.model.max_position_embeddings", 255, "data.seq_len is 256, above model.max_position"),
    ("bertds.data.train", [], "bertds.data.train is [], expected at least 1"),
    ("bertds.data.train", "5k/en/train", 'bertds.data.train is "5k/en/train", expected a list'),
    ("bertds.data.train.0.fracton", 1, "'bertds.data.train.0.fracton': did you mean 'fraction'?"),
    ("bertds.data.train.0.weight", 0.5, "bertds.data.train.0.weight is 0.5, expected a whole"),
    ("bertds.data.valid", [{"name": "a"}], "expected a block"),
    ("bertds.data.valid.en.nam", "a", "'bertds.data.valid.en.nam': did you mean 'name'?"),
    ("bertds.data.valid.e/n", {"name": "a"}, 'e/n is "e/n", expected a plain name'),
    ("bertds.data.cache_dir", "", 'cache_dir is "", expected a string that is not empty'),
    ("bertds.data.lanes", 7, "data.lanes is 7, which does not divide train_batch_size 256"),
    ("bertds.masking.ratio", 15, "bertds.masking.ratio is 15, expected less than 1"),
    ("bertds.masking.random_share", 0.3, "mask_share 0.8 + random_share 0.3 is above 1"),
    ("bertds.run.num_epochs", GONE, "neither num_epochs nor max_steps is given"),
    ("bertds.run.log_every", "1 step", 'log_every: "1 step" is not an interval: expected a number'),
    ("bertds.run.resume", "yes", 'bertds.run.resume is "yes", expected "auto", "required" or'),
    ("bertds.run.no_decay", ["biases"], 'bertds.run.no_decay.0 is "biases", expected "bias"'),
]


@pytest.mark.parametrize(("key", "value", "part"), MUTATIONS)
def test_a_mistake_is_rejected_in_the_file_and_in_a_setting_and_in_an_arm(write, key, value, part):
    path = write(changed(key, value))
    message = rejection(path)
    assert part in message
    assert message.startswith(f"{path} (arm one): ")
    if ".0." in key or "\n" in key:  # no path of --set
        return
    value = None if value is GONE else value  # null deletes in both
    assert key.split(".")[-1] in rejection(write(BASE), given=f"{key}={json.dumps(value)}")
    patch = value
    for name in reversed(key.split(".")):
        patch = {name: patch}
    if not isinstance(value, dict):  # a patch merges a block with what is there
        rejection(write(changed("bertds.arms", {"one": patch})))


def test_auto_is_a_value_of_resume(base):
    assert read_case(base, "one", "run.resume=auto").bertds.run.resume == "auto"


def test_a_floor_above_the_peak(base):
    assert "scheduler.params.eta_min is 0.1, above optimizer.params.lr 0.0005" in rejection(
        base, "cosine", "scheduler.params.eta_min=0.1"
    )


@pytest.mark.parametrize("setting", ["prescale_gradients=true", "gradient_predivide_factor=2.0"])
def test_gradients_divided_before_the_reduction_need_a_full_all_reduce(base, setting):
    read_case(base, "one", setting)
    for stage in (2, 3):
        divided = f"{setting},zero_optimization.stage={stage}"
        assert "need zero_optimization.stage 0 or 1" in rejection(base, "one", divided)
        read_case(base, "one", f"{divided},zero_optimization.reduce_scatter=false")


OFFLOAD = "zero_optimization.offload_optimizer.device"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_precision_and_stage(base, stage):
    zero = f"zero_optimization.stage={stage}"
    half = f"{zero},bf16=null,fp16.enabled=true"
    reduced = "bf16.bf16_master_weights_and_grads=true,bf16.bf16_optimizer_states=true"
    assert read_case(base, "one", zero).precision == "bf16"
    for fp32 in ("bf16=null", "bf16.enabled=false"):
        assert read_case(base, "one", f"{zero},{fp32}").precision == "fp32"
    if stage:
        assert read_case(base, "one", half).precision == "fp16"
        read_case(base, "one", f"{zero},data_types.grad_accum_dtype=fp32")
        read_case(base, "one", f"{zero},{reduced}")
        offload = f"{zero},bf16.bf16_master_weights_and_grads=true,{OFFLOAD}"
        read_case(base, "one", f"{offload}=cpu")
        assert 'with device "cpu"' in rejection(base, "one", f"{offload}=none")
    else:  # where DeepSpeed 0.19.8 never scales the loss
        assert "fp16.enabled is true at zero_optimization.stage 0" in rejection(base, "one", half)
        for setting in ("data_types.grad_accum_dtype=fp32", reduced):
            message = rejection(base, "one", f"{zero},{setting}")
            assert "needs zero_optimization.stage 1, 2 or 3" in message
        read_case(base, "one", f"{zero},data_types.grad_accum_dtype=bf16")
        message = rejection(base, "one", f"{zero},{OFFLOAD}=cpu")
        assert "offload_optimizer needs stage 1, 2 or 3" in message


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_lamb_needs_whole_layers(write, stage):
    content = changed("optimizer", {"type": "Lamb", "params": {"lr": 1e-3, "weight_decay": 0.01}})
    path = write(content)
    settings = f"zero_optimization.stage={stage}"
    if stage:
        assert "optimizer.type is Lamb at zero_optimization.stage" in rejection(
            path, "one", settings
        )
    else:
        assert read_case(path, "one", settings).deepspeed["optimizer"]["type"] == "Lamb"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "1e-4", "1 epoch", "Adam", "AdamW", "WarmupLR", "OneCycle"])
    | st.sampled_from([10**30, -1, 0, 0.5, 2, 3]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["type", "params", "name"]), inner)
    ),
    max_leaves=6,
)


def paths_of(content: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    return [
        path for key, value in items for path in [(*prefix, key), *paths_of(value, (*prefix, key))]
    ]


PATHS = paths_of(BASE)
ACTIONS = st.sampled_from(["replace", "delete", "rename", "add"])


def mutate(content: Any, path: tuple[Any, ...], action: str, name: str, value: Any) -> None:
    block, key = content, path[-1]
    try:
        for part in path[:-1]:
            block = block[part]
    except (KeyError, IndexError, TypeError):  # an earlier mutation has removed it
        return
    if not isinstance(block, dict):
        return
    if action == "replace":
        block[key] = value
    elif action == "add":
        block[name] = value
    elif key in block:
        old = block.pop(key)
        if action == "rename":
            block[name] = old


@given(
    st.lists(
        st.tuples(st.sampled_from(PATHS), ACTIONS, st.text(max_size=6), VALUES),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([*BASE["bertds"]["arms"], "none"]),
)
@example([(("bertds",), "delete", "", None)], "one")
@example([(("bertds", "arms", "one"), "add", "bertds", None)], "one")
@example([(("bertds", "arms", "one"), "add", "bertds", 4)], "one")
@example([(("bertds", "arms", "one"), "add", "scheduler", {"params": None})], "one")
@example([(("bertds", "arms", "one"), "add", "optimizer", {"type": "Lion", "params": None})], "one")
@example([(("optimizer", "type"), "replace", "", [])], "one")
@example([(("bertds", "data", "valid", "en"), "rename", "\n", None)], "one")
@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_mutated_file_is_valid_or_rejected(tmp_path, mutations, arm):
    content = copy.deepcopy(BASE)
    for mutation in mutations:
        mutate(content, *mutation)
    path = tmp_path / "case1.json"
    path.write_text(json.dumps(content))
    try:
        arms = list_arms(path)
        case = read_case(path, arm)
    except ConfigError as error:
        check_lines(str(error))
        return
    assert arm in [each.name for each in arms]
    assert case.train_batch_size > 0
    json.dumps(case.resolved, allow_nan=False)


@given(st.lists(st.sampled_from(PATHS), max_size=3), st.lists(VALUES, min_size=3, max_size=3))
@settings(deadline=None, max_examples=50)
def test_a_mutated_setting_is_valid_or_rejected(paths, values):
    text = ",".join(
        f"{'.'.join(str(part) for part in path)}={json.dumps(value)}"
        for path, value in zip(paths, values, strict=False)
    )
    try:
        read_case(CONFIGS / "case1.json", "layers4", text)
    except ConfigError as error:
        check_lines(str(error))


def test_reading_a_case_needs_neither_torch_nor_deepspeed():
    program = (
        "import sys; from pathlib import Path; from bertds.config.case import read_case; "
        "read_case(Path('ds_configs/case1.json'), 'layers4'); "
        "sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
