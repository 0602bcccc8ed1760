"""Merge patches of arms, and `--set`."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds import Case
from bertds.config.case import read_case
from bertds.config.overrides import merge_patch, parse_settings, patch_arm
from bertds.errors import ConfigError
from tests.helpers.launching import ROOT

CASE10 = ROOT / "ds_configs" / "case10.json", "lr5e-4"


def rejection(given: str) -> str:
    with pytest.raises(ConfigError) as rejected:
        read_case(*CASE10, given)
    message = str(rejected.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "patch", "expected"),
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
def test_the_examples_of_rfc_7396(content, patch, expected):
    before = copy.deepcopy(content)
    assert merge_patch(content, patch) == expected
    assert content == before


def test_a_new_type_replaces_the_parameters():
    """A cosine schedule must not inherit a gamma."""
    block = {"type": "WarmupExponentialLR", "params": {"warmup_epochs": 1, "gamma": 0.96}}
    for patch, params in (
        ({"params": {"gamma": 0.9}}, {"warmup_epochs": 1, "gamma": 0.9}),
        ({"type": block["type"], "params": {"gamma": 1}}, {"warmup_epochs": 1, "gamma": 1}),
        ({"type": "CosineAnnealingWarmRestarts", "params": {"T_0": 5}}, {"T_0": 5}),
        ({"type": "WarmupLR"}, {}),
    ):
        for name in ("scheduler", "optimizer"):
            assert patch_arm({name: block}, {name: patch})[name]["params"] == params


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" a = 1 , b.c = 2.5 ,", [("a", 1), ("b.c", 2.5)]),
        ("a=1e-4", [("a", 1e-4)]),
        ("a=true,b=null,c=false", [("a", True), ("b", None), ("c", False)]),
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
        ("a=it's,b=1", [("a", "it's"), ("b", 1)]),
        ("a=x],b=1", [("a", "x]"), ("b", 1)]),
        ("제목=한국어", [("제목", "한국어")]),
    ],
)
def test_settings_split_at_commas_outside_brackets_and_quotes(text, expected):
    assert parse_settings(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run.seed", "--set 'run.seed' is not path=value, such as run.seed=1"),
        ("=1", "--set '=1' is not path=value"),
        ("title=a\udcff", "which is not UTF-8"),
        ("a=1,b", "--set 'b' is not path=value"),
        ("a=[1,b=2", "has an open bracket or quote: close it"),
        ('a="1,b=2', "has an open bracket or quote: close it"),
        ("a=NaN", "--set a: NaN is not allowed"),
        ("a=1e999", "--set a: 1e999 is larger than the largest float"),
        ('a={"b":1,"b":2}', "--set a: the key 'b' occurs twice"),
        ("a=" + "[" * 50_000 + "]" * 50_000, "nested too deeply"),
    ],
)
def test_settings_that_cannot_be_parsed(text, part):
    with pytest.raises(ConfigError) as rejected:
        parse_settings(text)
    assert part in str(rejected.value)


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,2}", fullmatch=True),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=9),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=9), inner, max_size=3)
                ),
                max_leaves=5,
            ),
        ),
        max_size=4,
    )
)
@settings(deadline=None, max_examples=50)
def test_any_json_value_can_be_set(pairs):
    text = ",".join(f"{key}={json.dumps(value)}" for key, value in pairs)
    assert parse_settings(text) == pairs


@given(st.text(alphabet='ab.=,[]{}"\\ 1', max_size=30))
@settings(deadline=None)
def test_any_text_is_parsed_or_rejected(text):
    try:
        pairs = parse_settings(text)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert all(key for key, _ in pairs)


def test_a_setting_changes_the_case():
    case = read_case(*CASE10, "optimizer.params.lr=1e-4,optimizer.params.betas=[0.8,0.9]")
    assert case.deepspeed["optimizer"]["params"]["lr"] == 1e-4
    assert case.deepspeed["optimizer"]["params"]["betas"] == [0.8, 0.9]
    assert case.resolved["optimizer"] == case.deepspeed["optimizer"]
    case = read_case(CASE10[0], "lr5e-5", "optimizer.params.lr=3e-4")  # after the patch of the arm
    assert case.deepspeed["optimizer"]["params"]["lr"] == 3e-4
    for path in ("run.seed", "bertds.run.seed"):
        assert read_case(*CASE10, f"{path}=7").bertds.run.seed == 7


def test_null_deletes_and_a_block_replaces():
    case = read_case(*CASE10, 'scheduler=null,bf16=null,masking={"ratio":0.3}')
    assert not {"scheduler", "bf16"} & case.deepspeed.keys()
    assert (case.bertds.masking.ratio, case.resolved["bertds"]["masking"]) == (0.3, {"ratio": 0.3})
    absent = "run.mlflow.experiment=null,zero_optimization.offload_optimizer.device=null"
    assert read_case(*CASE10, absent).resolved == read_case(*CASE10).resolved
    assert "the key gradient_clipping is missing" in rejection("gradient_clipping=null")
    assert "the key bertds is missing" in rejection("bertds=null")


def test_a_setting_may_create_a_block():
    case = read_case(*CASE10, "zero_optimization.offload_optimizer.device=cpu")
    assert case.deepspeed["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    case = read_case(*CASE10, "data.valid.ko.name=5k/ko/valid")
    assert set(case.bertds.data.valid) == {"en", "ko"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run.sed=1", "--set run.sed: unknown path: did you mean 'seed'?"),
        ("rn.seed=1", "--set rn.seed: unknown path: did you mean 'run'?"),
        ("bertds.rn.seed=1", "--set bertds.rn.seed: unknown path: did you mean 'run'?"),
        ("optimiser.params.lr=1", "unknown path: did you mean 'optimizer'?"),
        ("optimizer.parms.lr=1", "--set optimizer.parms.lr: unknown path: did you mean 'params'?"),
        ("optimizer.params.lrr=1", "unknown key 'optimizer.params.lrr': did you mean 'lr'?"),
        ("scheduler.parms.gamma=1", "unknown path: did you mean 'params'?"),
        ("zero_optimization.overlap_com=true", "unknown path: did you mean 'overlap_comm'?"),
        ("zero_optimization.offload_optimizer.devic=cpu", "unknown path: did you mean 'device'?"),
        ("data.valid.en.nam=x", "unknown key 'bertds.data.valid.en.nam': did you mean 'name'?"),
        ("bertds.arms={}", "--set bertds.arms: unknown path"),
        ("train_batch_size.x=1", "'train_batch_size' is not a block"),
        ("optimizer.params.lr.x=1", "'lr' is not a block"),
        ("data.train.0.name=x", "'train' is not a block"),
        ("run..seed=1", "--set run..seed: unknown path"),
        (".=1", "--set .: unknown path"),
        ("gradient_accumulation_steps=2", "gradient_accumulation_steps may not be set"),
        ("amp.enabled=true", "amp may not be set"),
        ("run.seed=x", 'bertds.run.seed is "x", expected a whole number'),
        ("optimizer.params.lr=1e-4x", 'optimizer.params.lr is "1e-4x", expected a number'),
    ],
)
def test_a_setting_that_no_case_has(text, part):
    assert part in rejection(text)


NESTED = {
    "train_batch_size": 64,
    "run": {"max_steps": 5, "log_every": "1 epoch", "num_epochs": None},
    "optimizer": {"params": {"lr": 1e-3, "betas": (0.8, 0.9)}},
}


@pytest.mark.parametrize(
    "given",
    [
        NESTED,
        {"bertds": {"run": NESTED["run"]}, **{k: NESTED[k] for k in NESTED if k != "run"}},
        {
            "train_batch_size": 64,
            "run.max_steps": 5,
            "bertds.run.log_every": "1 epoch",
            "run.num_epochs": None,
            "optimizer.params": {"lr": 1e-3},
            "optimizer.params.betas": [0.8, 0.9],
        },
    ],
)
def test_settings_of_a_program_equal_the_text_of_set(given):
    text = (
        "train_batch_size=64,run.max_steps=5,run.log_every=1 epoch,run.num_epochs=null,"
        "optimizer.params.lr=1e-3,optimizer.params.betas=[0.8,0.9]"
    )
    path, arm = CASE10
    assert Case.read(path, arm, given) == Case.read(path, arm, text)
    assert Case.read(path, arm, {}) == Case.read(path, arm)


def test_a_block_in_a_mapping_is_merged_as_that_of_an_arm():
    """Nothing that is not named changes; a new type has no parameters of the old one."""
    path, arm = CASE10
    before = Case.read(path, arm).resolved
    after = Case.read(path, arm, {"optimizer": {"params": {"lr": 1.0}}}).resolved
    assert after["optimizer"]["params"] == {**before["optimizer"]["params"], "lr": 1.0}
    cosine = {"type": "CosineAnnealingWarmRestarts", "params": {"T_0": 5}}
    assert Case.read(path, arm, {"scheduler": cosine}).resolved["scheduler"] == cosine
    assert "scheduler" not in Case.read(path, arm, {"scheduler": None}).resolved


@pytest.mark.parametrize(
    ("given", "error", "part"),
    [
        (5, TypeError, "settings is 5, expected a mapping such as {'run.max_steps': 100}"),
        (None, TypeError, "settings is None, expected a mapping"),
        (["run.seed=1"], TypeError, "expected a mapping"),
        ({"max_steps": 5}, ConfigError, "max_steps: unknown path: did you mean 'run.max_steps'?"),
        ({1: 5}, ConfigError, "the key 1 is not a string"),
        ({"run": {"seed": object()}}, ConfigError, "give values as in JSON"),
        ({"run.max_hours": float("nan")}, ConfigError, "give values as in JSON"),
        ({"run": {"sed": 1}}, ConfigError, "unknown key 'bertds.run.sed': did you mean 'seed'?"),
        ({"run": 3}, ConfigError, "bertds.run is 3, expected a block"),
    ],
)
def test_wrong_settings_of_a_program_get_one_message(given, error, part):
    with pytest.raises(error) as rejected:
        Case.read(*CASE10, given)
    assert part in str(rejected.value)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("max_steps", "'run.max_steps'"),
        ("max_stps", "'run.max_steps'"),
        ("lr", "'optimizer.params.lr'"),
        ("run.maxsteps", "'max_steps'"),
    ],
)
def test_an_unknown_path_is_answered_with_its_place(path, place):
    assert rejection(f"{path}=1").endswith(f"--set {path}: unknown path: did you mean {place}?")
    assert rejection("arms={}").endswith(
        "unknown path: an arm is chosen with --arm, and changed in the file"
    )
