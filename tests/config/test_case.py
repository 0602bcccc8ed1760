"""A case file is resolved exactly, and what is wrong in it is refused in one sentence."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bertds.config.batch import split_batch, valid_micro_batch_size
from bertds.config.case import Case, list_arms, read_case
from bertds.config.overrides import merge_patch, parse_settings, patch_arm
from bertds.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "ds_configs"
GONE = object()
PARTS = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 48, 64, 96, 100, 256, 1000])
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
            "decoupled": {
                "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01}}
            },
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


def refusal(path: Path, arm: str = "one", given: str = "") -> str:
    """What is said, after the checks that all refusals pass."""
    with pytest.raises(ConfigError) as refused:
        read_case(path, arm, given)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert "pydantic" not in sentence
    assert "something else" not in sentence
    assert len(sentence) < 900
    assert refused.value.code == 2
    return sentence


@pytest.mark.parametrize(
    ("content", "patch", "wanted"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_rfc_7396(content, patch, wanted):
    before = copy.deepcopy(content)
    assert merge_patch(content, patch) == wanted
    assert content == before


def test_an_arm_is_a_patch_of_the_file(base):
    assert read_case(base, "one").train_batch_size == 256
    case = read_case(base, "two")
    assert (case.name, case.arm, case.train_batch_size) == ("case1", "two", 128)
    assert case.deepspeed["scheduler"] == BASE["scheduler"]


def test_a_patch_of_the_same_type_is_merged():
    merged = patch_arm(BASE, {"scheduler": {"params": {"gamma": 0.9}}})
    assert merged["scheduler"]["params"] == {"warmup_epochs": 1, "gamma": 0.9}
    merged = patch_arm(BASE, {"scheduler": {"type": "WarmupExponentialLR", "params": {"gamma": 1}}})
    assert merged["scheduler"]["params"] == {"warmup_epochs": 1, "gamma": 1}


def test_another_type_brings_its_own_parameters(base):
    """Nobody wants a cosine with a gamma left over."""
    assert read_case(base, "cosine").deepspeed["scheduler"]["params"] == {"T_0": 5}
    assert read_case(base, "decoupled").deepspeed["optimizer"]["params"] == {
        "lr": 1e-3,
        "weight_decay": 0.01,
    }
    assert patch_arm(BASE, {"optimizer": {"type": "Lion"}})["optimizer"]["params"] == {}


def test_a_file_without_arms_has_one(write):
    content = changed("bertds.arms", GONE)
    path = write(content)
    (arm,) = list_arms(path)
    assert (arm.name, arm.run_arm, arm.same_as, arm.path) == ("main", "main", "case1/main", path)
    assert read_case(path, "main").resolved == content


def test_the_resolved_file_has_no_arms_and_nothing_else_is_lost(base):
    case = read_case(base, "one")
    wanted = changed("bertds.arms", GONE)
    assert case.resolved == wanted
    assert case.deepspeed == {key: value for key, value in wanted.items() if key != "bertds"}


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
        {"same_as": ""},
        {"same_as": 3},
        {"same_as": "../case1/one"},
        {"same_as": "/etc/passwd"},
        {"same_as": "case2/a"},  # itself
        {"same_as": "case1/two", "train_batch_size": 3},
    ],
)
def test_same_as_leads_to_a_run(write, patch):
    write(BASE, "case1.json")
    path = write(changed("bertds.arms", {"a": patch}), "case2.json")
    with pytest.raises(ConfigError, match="arm 'a' has same_as") as refused:
        list_arms(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("arms", [[], {}, None, 3, {"a": 3}, {"a": None}, {"a": []}])
def test_arms_are_named_patches(write, arms):
    path = write(changed("bertds.arms", arms))
    assert "wanted a block" in refusal(path, "a")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "a\n", "ä", "-x"])
def test_an_arm_has_a_name_that_a_directory_can_have(write, name):
    assert "must be a plain file name" in refusal(write(changed("bertds.arms", {name: {}})), name)


def test_an_unknown_arm(base):
    assert refusal(base, "cosin").endswith("no arm 'cosin': did you mean 'cosine'?")
    assert refusal(base, "xyz").endswith("wanted one of cosine, decoupled, one, two")


def test_a_missing_file(tmp_path, write):
    write(BASE)
    assert "did you mean 'case1.json'?" in refusal(tmp_path / "case1.jsn")
    assert "is not a file" in refusal(tmp_path)
    assert "is not a file" in refusal(tmp_path / "no" / "such.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("{'a': 1}", "is not JSON"),
        ('{"a": 1,}', "is not JSON"),
        ('{"a": 1} // comment', "is not JSON"),
        ("[]", 'has no block "bertds"'),
        ("null", 'has no block "bertds"'),
        ("{}", 'has no block "bertds"'),
        ('{"bertds": []}', 'has no block "bertds"'),
        ('{"bertds": {}, "bertds": {}}', "the key 'bertds' stands twice"),
        ('{"bertds": {"run": {"seed": 1, "seed": 2}}}', "the key 'seed' stands twice"),
        ('{"bertds": {}, "x": NaN}', "NaN is not a number that can be used"),
        ('{"bertds": {}, "x": -Infinity}', "-Infinity is not a number that can be used"),
        ('{"bertds": {}, "x": 1e999}', "1e999 is larger than any number"),
        ('{"bertds": {}, "x": ' + "9" * 5000 + "}", "has more than 19 digits"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_case(write, text, said):
    assert said in refusal(write(text))


def test_bytes_that_are_not_text(tmp_path):
    path = tmp_path / "case1.json"
    path.write_bytes(b'{"bertds": "\xff\xfe"}')
    assert "is not JSON" in refusal(path)


def test_a_file_of_megabytes(write):
    assert "which no case file has" in refusal(write(" " * (5 << 20)))


MUTATIONS = [
    # a key of DeepSpeed's that DeepSpeed would not miss, or misspelt
    ("train_batch_size", GONE, "the key train_batch_size is missing: add it"),
    ("train_batch_size", "256", 'train_batch_size is "256", wanted a whole number'),
    ("train_batch_size", 256.5, "train_batch_size is 256.5, wanted a whole number"),
    ("train_batch_size", 0, "train_batch_size is 0, wanted more than 0"),
    ("train_batch_size", -256, "train_batch_size is -256, wanted more than 0"),
    ("train_batch_size", True, "train_batch_size is true, wanted a whole number"),
    ("train_batch_size", None, "train_batch_size is null, wanted a whole number"),
    ("train_batch_size", [256], "train_batch_size is [256], wanted a whole number"),
    ("train_batch_size", "auto", 'train_batch_size is "auto", which nothing fills in here'),
    ("train_batch_sise", 256, "unknown key 'train_batch_sise': did you mean 'train_batch_size'?"),
    ("gradient_clipping", GONE, "the key gradient_clipping is missing: add it"),
    ("gradient_clipping", "1.0", 'gradient_clipping is "1.0", wanted a number'),
    ("gradient_clipping", -1, "gradient_clipping is -1, wanted at least 0"),
    ("gradient_cliping", 1, "unknown key 'gradient_cliping': did you mean 'gradient_clipping'?"),
    ("gradient_accumulation_steps", 2, "may not be set: it follows from run.max_micro_batch_size"),
    ("train_micro_batch_size_per_gpu", 2, "train_micro_batch_size_per_gpu may not be set"),
    ("checkpoint", {}, "checkpoint may not be set: checkpoints are written in a form of our own"),
    ("amp", {"enabled": True}, "amp may not be set: DeepSpeed 0.19 has removed it, use bf16"),
    ("elasticity", {"enabled": True}, "elasticity may not be set: DeepSpeed 0.19 has removed it"),
    ("bertds_", {}, "unknown key 'bertds_': did you mean 'bertds'?"),
    ("a\nb", 1, "unknown key 'a\\nb'"),
    # optimizer
    ("optimizer", GONE, "the key optimizer is missing: add it"),
    ("optimizer", "Adam", 'optimizer is "Adam", wanted a block'),
    ("optimizer.type", GONE, "the key optimizer.type is missing: add it"),
    ("optimizer.type", "adam", "optimizer.type is \"adam\": did you mean 'Adam'?"),
    ("optimizer.type", "OneBitAdam", '"OneBitAdam": wanted one of Adam, AdamW, Lamb, Lion'),
    ("optimizer.type", 3, "optimizer.type is 3, wanted a text"),
    ("optimizer.params", GONE, "the key optimizer.params is missing: add it"),
    ("optimizer.params", [1], "optimizer.params is [1], wanted a block"),
    ("optimizer.parms", {}, "unknown key 'optimizer.parms': did you mean 'params'?"),
    ("optimizer.params.lr", GONE, "the key optimizer.params.lr is missing: add it"),
    ("optimizer.params.lr", "5e-4", 'optimizer.params.lr is "5e-4", wanted a number'),
    ("optimizer.params.lr", 0, "optimizer.params.lr is 0, wanted more than 0"),
    ("optimizer.params.lr", "auto", 'optimizer.params.lr is "auto", which nothing fills in'),
    ("optimizer.params.weight_decay", GONE, "the key optimizer.params.weight_decay is missing"),
    ("optimizer.params.weight_decay", -0.1, "optimizer.params.weight_decay is -0.1, wanted at le"),
    ("optimizer.params.weight_decy", 0.1, "'optimizer.params.weight_decy': did you mean 'weight_"),
    ("optimizer.params.adam_w_mode", GONE, "the key optimizer.params.adam_w_mode is missing"),
    ("optimizer.params.adam_w_mode", 0, "optimizer.params.adam_w_mode is 0, wanted true or false"),
    ("optimizer.params.betas", [0.9], "optimizer.params.betas.1 is missing"),
    ("optimizer.params.betas", [0.9, 0.99, 0.9], "optimizer.params.betas is [0.9, 0.99, 0.9], w"),
    ("optimizer.params.betas", [0.9, 1], "optimizer.params.betas.1 is 1, wanted less than 1"),
    ("optimizer.params.betas", 0.9, "optimizer.params.betas is 0.9, wanted a list"),
    ("optimizer.params.max_grad_norm", 1, "unknown key 'optimizer.params.max_grad_norm'"),
    # scheduler
    ("scheduler.type", "CosineLR", "did you mean 'WarmupCosineLR'?"),
    ("scheduler.type", "WarmupLR", "unknown key 'scheduler.params.gamma'"),
    ("scheduler.params.gama", 1, "unknown key 'scheduler.params.gama': did you mean 'gamma'?"),
    ("scheduler.params.gamma", GONE, "the key scheduler.params.gamma is missing: add it"),
    ("scheduler.params.gamma", 1.5, "scheduler.params.gamma is 1.5, wanted at most 1"),
    ("scheduler.params.warmup_epochs", GONE, "give one of warmup_num_steps and warmup_epochs"),
    ("scheduler.params.warmup_num_steps", 5, "give one of warmup_num_steps and warmup_epochs"),
    ("scheduler.params.staircase", "yes", 'scheduler.params.staircase is "yes", wanted true or f'),
    # precision and ZeRO
    ("bf16", True, "bf16 is true, wanted a block"),
    ("bf16.enabled", "true", 'bf16.enabled is "true", wanted true or false'),
    ("bf16.enable", True, "unknown key 'bf16.enable': did you mean 'enabled'?"),
    ("fp16.enabled", True, "bf16 and fp16 are both enabled: enable one"),
    ("fp16.loss_scale", "0", 'fp16.loss_scale is "0", wanted a number'),
    ("zero_optimization.stage", 4, "zero_optimization.stage is 4, wanted at most 3"),
    ("zero_optimization.stage", True, "zero_optimization.stage is true, wanted a whole number"),
    ("zero_optimization.stage", "1", 'zero_optimization.stage is "1", wanted a whole number'),
    ("zero_optimization.stag", 1, "unknown key 'zero_optimization.stag': did you mean 'stage'?"),
    ("zero_optimization.reduce_bucket_size", 0.5, "is 0.5, wanted a whole number"),
    ("zero_optimization.offload_param", {"device": "cpu"}, "offload_param needs stage 3"),
    ("zero_optimization.offload_optimizer", {"devise": "cpu"}, "did you mean 'device'?"),
    ("zero_optimization.offload_optimizer", {"device": "gpu"}, '"none", "cpu" or "nvme"'),
    ("zero_optimization.offload_optimizer", {"device": "nvme"}, "nvme_path: give the directory"),
    (
        "zero_optimization.offload_optimizer",
        {"device": "nvme", "nvme_path": "/scratch"},
        "where no checkpoint reaches them",
    ),
    ("zero_optimization.offload_optimizer", {"device": "cpu", "ratio": 0.5}, "set device to "),
    (
        "zero_optimization.offload_optimizer",
        {"device": "cpu", "super_offload": True},
        "leave super_offload out",
    ),
    ("zero_optimization.allgather_bucket_size", 5, "size is 5, wanted an even number"),
    ("bf16.bf16_master_weights_and_grads", True, 'offload_optimizer with device "cpu"'),
    ("data_types.grad_accum_dtype", "fp64", 'wanted "fp32", "fp16" or "bf16"'),
    ("flops_profiler.profile_step", "5", 'flops_profiler.profile_step is "5", wanted a whole'),
    ("tensorboard.enable", True, "unknown key 'tensorboard.enable': did you mean 'enabled'?"),
    # our block
    ("bertds.model", GONE, "the key bertds.model is missing: add it"),
    ("bertds.modle", {}, "unknown key 'bertds.modle': did you mean 'model'?"),
    ("bertds.title", 3, "bertds.title is 3, wanted a text"),
    ("bertds.model.hidden_size", GONE, "the key bertds.model.hidden_size is missing: add it"),
    ("bertds.model.hidden_sise", 3, "unknown key 'bertds.model.hidden_sise': did you mean 'hidd"),
    ("bertds.model.hidden_size", 500, "num_attention_heads is 8, which does not divide hidden_s"),
    ("bertds.model.preset", "roberta", 'bertds.model.preset is "roberta", wanted "bert"'),
    ("bertds.model.hidden_act", "swish", 'is "swish", wanted "relu", "gelu" or "silu"'),
    ("bertds.model.hidden_dropout_prob", 1, "bertds.model.hidden_dropout_prob is 1, wanted less"),
    ("bertds.model.max_position_embeddings", 128, "data.seq_len is 256, above model.max_position"),
    ("bertds.data.train", [], "bertds.data.train is [], wanted at least 1"),
    ("bertds.data.train", "5k/en/train", 'bertds.data.train is "5k/en/train", wanted a list'),
    ("bertds.data.train.0.fraction", 1.2, "bertds.data.train.0.fraction is 1.2, wanted at most 1"),
    ("bertds.data.train.0.fracton", 1, "'bertds.data.train.0.fracton': did you mean 'fraction'?"),
    ("bertds.data.train.0.weight", 0.5, "bertds.data.train.0.weight is 0.5, wanted a whole"),
    ("bertds.data.valid", [{"name": "a"}], "wanted a block"),
    ("bertds.data.valid.en", "5k/en/valid", 'valid.en is "5k/en/valid", wanted a block'),
    ("bertds.data.valid.en.nam", "a", "'bertds.data.valid.en.nam': did you mean 'name'?"),
    ("bertds.data.valid.e/n", {"name": "a"}, "bertds.data.valid.e/n is"),
    ("bertds.data.lanes", 7, "data.lanes is 7, which does not divide train_batch_size 256"),
    ("bertds.masking.ratio", 15, "bertds.masking.ratio is 15, wanted less than 1"),
    ("bertds.masking.mode", "fixed", 'is "fixed", wanted "dynamic" or "static"'),
    ("bertds.masking.random_share", 0.3, "mask_share 0.8 + random_share 0.3 is above 1"),
    ("bertds.masking.copies", 4, "copies is 4, which only static masking has"),
    ("bertds.run.num_epochs", GONE, "neither num_epochs nor max_steps is given"),
    ("bertds.run.num_epochs", "auto", 'bertds.run.num_epochs is "auto", which nothing fills in'),
    ("bertds.run.num_epoch", 3, "unknown key 'bertds.run.num_epoch': did you mean 'num_epochs'?"),
    ("bertds.run.log_every", "1 step", 'log_every: "1 step" is neither a count of steps nor a'),
    ("bertds.run.eval_every", 0.5, "eval_every: 0.5 is neither a count of steps nor a text"),
    ("bertds.run.resume", "yes", 'bertds.run.resume is "yes", wanted "auto", "required" or'),
    ("bertds.run.no_decay", ["biases"], 'bertds.run.no_decay.0 is "biases", wanted "bias"'),
    ("bertds.run.seed", -1, "bertds.run.seed is -1, wanted at least 0"),
]


@pytest.mark.parametrize(("key", "value", "said"), MUTATIONS)
def test_what_is_wrong_is_said_in_one_sentence(write, key, value, said):
    path = write(changed(key, value))
    sentence = refusal(path)
    assert said in sentence
    assert sentence.startswith(f"{path} (arm one): ")


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, value, _ in MUTATIONS if ".0." not in key and "\n" not in key],
)
def test_what_is_wrong_is_wrong_in_a_setting_and_in_an_arm(write, key, value):
    value = None if value is GONE else value  # null deletes in both
    named = key.split(".")[-1]
    assert named in refusal(write(BASE), given=f"{key}={json.dumps(value)}")
    patch = value
    for part in reversed(key.split(".")):
        patch = {part: patch}
    if not isinstance(value, dict):  # a block is merged: what is missing in it may be there before
        refusal(write(changed("bertds.arms", {"one": patch})))


def test_auto_is_a_value_where_it_is_one(base):
    assert read_case(base, "one", "run.resume=auto").bertds.run.resume == "auto"


def test_a_floor_above_the_peak(base):
    assert "scheduler.params.eta_min is 0.1, above optimizer.params.lr 0.0005" in refusal(
        base, "cosine", "scheduler.params.eta_min=0.1"
    )


@pytest.mark.parametrize("setting", ["prescale_gradients=true", "gradient_predivide_factor=2.0"])
def test_gradients_divided_first_need_all_of_them(base, setting):
    read_case(base, "one", setting)
    for stage in (2, 3):
        divided = f"{setting},zero_optimization.stage={stage}"
        assert "need zero_optimization.stage 0 or 1" in refusal(base, "one", divided)
        read_case(base, "one", f"{divided},zero_optimization.reduce_scatter=false")


def test_gradients_summed_in_another_type_need_zero(base):
    assert "needs zero_optimization.stage 1, 2 or 3" in refusal(
        base, "one", "zero_optimization.stage=0,data_types.grad_accum_dtype=fp32"
    )
    read_case(base, "one", "data_types.grad_accum_dtype=fp32")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_precision(base, stage):
    zero = f"zero_optimization.stage={stage}"
    assert read_case(base, "one", zero).precision == "bf16"
    assert read_case(base, "one", f"{zero},bf16=null").precision == "fp32"
    assert read_case(base, "one", f"{zero},bf16.enabled=false").precision == "fp32"
    half = f"{zero},bf16=null,fp16.enabled=true"
    if stage == 0:  # where DeepSpeed 0.19.8 never scales the loss
        assert "fp16.enabled is true at zero_optimization.stage 0" in refusal(base, "one", half)
    else:
        assert read_case(base, "one", half).precision == "fp16"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_lamb_compares_whole_layers(write, stage):
    content = changed("optimizer", {"type": "Lamb", "params": {"lr": 1e-3, "weight_decay": 0.01}})
    path = write(content)
    settings = f"zero_optimization.stage={stage}"
    if stage:
        assert "optimizer.type is Lamb at zero_optimization.stage" in refusal(path, "one", settings)
    else:
        assert read_case(path, "one", settings).deepspeed["optimizer"]["type"] == "Lamb"


@pytest.mark.parametrize(
    ("settings", "world_size", "sizes"),
    [
        ("run.max_micro_batch_size=256", 1, (256, 256)),
        ("run.max_micro_batch_size=64", 1, (64, 64)),
        ("run.max_micro_batch_size=256", 32, (8, 16)),  # of 256 sequences
        ("run.max_micro_batch_size=60", 1, (32, 60)),
    ],
)
def test_validation_computes_at_most_twice_as_much_at_once(base, settings, world_size, sizes):
    case = read_case(base, "one", settings)
    assert case.train_batch_size == 256
    found = split_batch(case, world_size).micro_batch_size, valid_micro_batch_size(case, world_size)
    assert found == sizes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("a=1", [("a", 1)]),
        (" a = 1 , b.c = 2.5 ,", [("a", 1), ("b.c", 2.5)]),
        ("a=1e-4", [("a", 1e-4)]),
        ("a=true,b=null,c=false", [("a", True), ("b", None), ("c", False)]),
        ("a=text", [("a", "text")]),
        ("a=1 epoch", [("a", "1 epoch")]),
        ("a=", [("a", "")]),
        ("a=b=c", [("a", "b=c")]),
        ('a="1"', [("a", "1")]),
        ("a=[1,2],b=3", [("a", [1, 2]), ("b", 3)]),
        ('a={"b": [1, {"c": 2}], "d": 3},e=4', [("a", {"b": [1, {"c": 2}], "d": 3}), ("e", 4)]),
        ('a="x, y",b=1', [("a", "x, y"), ("b", 1)]),
        ('a="]{",b=1', [("a", "]{"), ("b", 1)]),
        (r'a="say \"a, b\"",b=1', [("a", 'say "a, b"'), ("b", 1)]),
        (r'a="\\",b=1', [("a", "\\"), ("b", 1)]),
        ("a=0.5 epochs,b=x-1", [("a", "0.5 epochs"), ("b", "x-1")]),
        ("a=it's,b=1", [("a", "it's"), ("b", 1)]),
        ("a=x],b=1", [("a", "x]"), ("b", 1)]),
        ("제목=한국어", [("제목", "한국어")]),
    ],
)
def test_settings_split_at_commas_outside_brackets_and_quotes(text, wanted):
    assert parse_settings(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run.seed", "--set 'run.seed' is not path=value, such as run.seed=1"),
        ("=1", "--set '=1' is not path=value"),
        ("a=1,b", "--set 'b' is not path=value"),
        ("a=[1,b=2", "leaves a bracket or a quote open: close it"),
        ('a="1,b=2', "leaves a bracket or a quote open: close it"),
        ("a=NaN", "--set a: NaN is not a number that can be used"),
        ("a=1e999", "--set a: 1e999 is larger than any number"),
        ('a={"b":1,"b":2}', "--set a: the key 'b' stands twice"),
        ("a=" + "[" * 99_999 + "]" * 99_999, "nested too deeply"),
    ],
)
def test_settings_that_cannot_be_read(text, said):
    with pytest.raises(ConfigError) as refused:
        parse_settings(text)
    assert said in str(refused.value)


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,2}", fullmatch=True),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=5,
            ),
        )
    )
)
def test_any_json_value_can_be_set(pairs):
    text = ",".join(f"{key}={json.dumps(value)}" for key, value in pairs)
    assert parse_settings(text) == pairs


def test_settings_come_last(base):
    assert read_case(base, "two", "train_batch_size=64").train_batch_size == 64


def test_our_block_may_be_left_out_of_a_path(base):
    for path in ("run.seed=7", "bertds.run.seed=7"):
        assert read_case(base, "one", path).bertds.run.seed == 7


def test_a_setting_reaches_an_optimizers_parameters(base):
    case = read_case(base, "one", "optimizer.params.lr=1e-4,optimizer.params.betas=[0.8,0.9]")
    assert case.deepspeed["optimizer"]["params"]["lr"] == 1e-4
    assert case.deepspeed["optimizer"]["params"]["betas"] == [0.8, 0.9]
    assert case.resolved["optimizer"] == case.deepspeed["optimizer"]


def test_null_deletes_and_a_block_replaces(base):
    case = read_case(base, "one", 'scheduler=null,bf16=null,masking={"ratio":0.3}')
    assert "scheduler" not in case.deepspeed
    assert "bf16" not in case.deepspeed
    assert (case.bertds.masking.ratio, case.resolved["bertds"]["masking"]) == (0.3, {"ratio": 0.3})
    absent = read_case(
        base, "one", "run.mlflow.experiment=null,zero_optimization.offload_optimizer.device=null"
    )
    assert absent.resolved == read_case(base, "one").resolved
    assert "the key gradient_clipping is missing" in refusal(base, given="gradient_clipping=null")
    assert "the key bertds is missing" in refusal(base, given="bertds=null")


def test_a_setting_may_begin_a_block(base):
    case = read_case(base, "one", "zero_optimization.offload_optimizer.device=cpu")
    assert case.deepspeed["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    case = read_case(base, "one", "data.valid.ko.name=5k/ko/valid")
    assert set(case.bertds.data.valid) == {"en", "ko"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run.sed=1", "--set run.sed: unknown path: did you mean 'seed'?"),
        ("rn.seed=1", "--set rn.seed: unknown path: did you mean 'run'?"),
        ("bertds.rn.seed=1", "--set bertds.rn.seed: unknown path: did you mean 'run'?"),
        ("gradient_cliping=1", "unknown path: did you mean 'gradient_clipping'?"),
        ("optimiser.params.lr=1", "unknown path: did you mean 'optimizer'?"),
        ("optimizer.parms.lr=1", "--set optimizer.parms.lr: unknown path: did you mean 'params'?"),
        ("scheduler.parms.gamma=1", "unknown path: did you mean 'params'?"),
        ("optimizer.params.lrr=1", "unknown key 'optimizer.params.lrr': did you mean 'lr'?"),
        ("zero_optimization.stge=1", "unknown path: did you mean 'stage'?"),
        ("zero_optimization.offload_optimizer.devic=cpu", "unknown path: did you mean 'device'?"),
        ("bf16.enable=true", "unknown path: did you mean 'enabled'?"),
        ("data.valid.en.nam=x", "unknown key 'bertds.data.valid.en.nam': did you mean 'name'?"),
        ("arms.one.train_batch_size=1", "--set arms.one.train_batch_size: unknown path"),
        ("bertds.arms={}", "--set bertds.arms: unknown path"),
        ("train_batch_size.x=1", "'train_batch_size' is not a block"),
        ("optimizer.params.lr.x=1", "'lr' is not a block"),
        ("data.train.0.name=x", "'train' is not a block"),
        ("run..seed=1", "--set run..seed: unknown path"),
        (".=1", "--set .: unknown path"),
        ("gradient_accumulation_steps=2", "gradient_accumulation_steps may not be set"),
        ("amp.enabled=true", "amp may not be set"),
        ("run.seed=1.5", "bertds.run.seed is 1.5, wanted a whole number"),
        ("run.seed=x", 'bertds.run.seed is "x", wanted a whole number'),
        ("optimizer.params.lr=1e-4x", 'optimizer.params.lr is "1e-4x", wanted a number'),
    ],
)
def test_a_setting_that_no_case_has(base, text, said):
    assert said in refusal(base, given=text)


def sized(batch: int, most: int = 256) -> Case:
    return read_case(
        CONFIGS / "case1.json",
        "layers4",
        f"train_batch_size={batch},run.max_micro_batch_size={most}",
    )


@pytest.mark.parametrize(
    ("batch", "most", "world_size", "micro", "accumulation"),
    [
        (256, 256, 1, 256, 1),
        (256, 256, 2, 128, 1),
        (256, 64, 1, 64, 4),
        (256, 100, 1, 64, 4),
        (256, 1, 4, 1, 64),
        (96, 36, 2, 24, 2),
        (7, 6, 1, 1, 7),
        (1_000_003, 256, 1, 1, 1_000_003),  # a prime
        (2**40, 512, 2**20, 512, 2**11),
    ],
)
def test_a_batch_is_divided(batch, most, world_size, micro, accumulation):
    split = split_batch(sized(batch, most), world_size)
    assert (split.micro_batch_size, split.accumulation) == (micro, accumulation)


@given(PARTS, PARTS, PARTS)
@settings(deadline=None)
def test_every_sequence_is_somewhere_and_no_larger_micro_batch_fits(per_process, world, most):
    batch = per_process * world
    split = split_batch(sized(batch, most), world)
    assert split.micro_batch_size * split.accumulation * world == batch
    assert split.micro_batch_size <= most
    larger = range(split.micro_batch_size + 1, min(most, per_process) + 1)
    assert not [size for size in larger if per_process % size == 0]


@pytest.mark.parametrize(
    ("batch", "world_size", "nearest"),
    [
        (256, 3, "2 or 4"),
        (256, 100, "128 or 64"),
        (64, 65, "64 or 32"),
        (48, 7, "6 or 8"),
        (5, 2, "1 or 5"),
    ],
)
def test_processes_that_do_not_divide_the_batch(batch, world_size, nearest):
    with pytest.raises(ConfigError) as refused:
        split_batch(sized(batch), world_size)
    assert str(refused.value) == (
        f"train_batch_size {batch} cannot be divided among {world_size} processes: start "
        f"{nearest}, or change the batch"
    )


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
    except (KeyError, IndexError, TypeError):  # an earlier mutation has taken it away
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
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_mutated_file_works_or_is_refused(tmp_path, mutations, arm):
    content = copy.deepcopy(BASE)
    for mutation in mutations:
        mutate(content, *mutation)
    path = tmp_path / "case1.json"
    path.write_text(json.dumps(content))
    try:
        arms = list_arms(path)
        case = read_case(path, arm)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert "something else" not in str(error)
        return
    assert arm in [each.name for each in arms]
    assert case.train_batch_size > 0
    json.dumps(case.resolved, allow_nan=False)


@given(st.lists(st.sampled_from(PATHS), max_size=3), st.lists(VALUES, min_size=3, max_size=3))
@settings(deadline=None)
def test_a_mutated_setting_works_or_is_refused(paths, values):
    text = ",".join(
        f"{'.'.join(str(part) for part in path)}={json.dumps(value)}"
        for path, value in zip(paths, values, strict=False)
    )
    try:
        read_case(CONFIGS / "case1.json", "layers4", text)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert "something else" not in str(error)


@given(st.text(alphabet='ab.=,[]{}"\\ 1', max_size=30))
def test_any_text_of_settings_is_read_or_refused(text):
    try:
        pairs = parse_settings(text)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert all(key for key, _ in pairs)


def test_reading_a_case_needs_neither_torch_nor_deepspeed():
    program = (
        "import sys; from pathlib import Path; from bertds.config.case import read_case; "
        "read_case(Path('ds_configs/case1.json'), 'layers4'); "
        "sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
