"""The shipped case files are the reference experiments, whose table is repeated here."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bertds.config.case import Case, list_arms, read_case
from bertds.config.optimizer_schema import Chosen
from bertds.config.schema import interval_steps
from bertds.optim.lr_schedules import ScheduleLengths, cosine_restarts, lr_lambda

CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"
FILES = sorted(path.name for path in CONFIGS.glob("*.json"))
EXPONENTIAL = {
    "type": "WarmupExponentialLR",
    "params": {"warmup_epochs": 1, "gamma": 0.96, "decay_epochs": 1, "staircase": True},
}
COSINE = {
    "type": "CosineAnnealingWarmRestarts",
    "params": {"T_0_epochs": 5, "T_mult": 2, "eta_min": 1e-5},
}


# DeepSpeed's schedule with the same minimum: 0.02 * 5e-4 is 1e-5.
WARMUP_COSINE = {
    "type": "WarmupCosineLR",
    "params": {
        "warmup_epochs": 1,
        "total_epochs": 155,
        "warmup_type": "linear",
        "cos_min_ratio": 0.02,
    },
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row of the table; the defaults are common to most rows."""

    layers: int
    epochs: int
    hidden: int = 512
    lr: float = 5e-4
    decay: float = 0.0
    dropout: float = 0.1
    batch: int = 256
    languages: tuple[str, ...] = ("en",)
    merges: str = "50k"
    fraction: float = 1.0
    masking: str = "dynamic"
    scheduler: dict[str, Any] | None = None
    per_epoch: bool = field(default=False)
    """Whether metrics are logged once per epoch."""


KO_EN = ("ko", "en")
THIRTY = {"merges": "30k", "epochs": 32}
TEN = {"merges": "10k", "layers": 3, "epochs": 40}
FIFTH = {"merges": "5k", "layers": 6, "fraction": 0.2, "dropout": 0.0}
RECORD: dict[str, Run | str] = {
    "case1/layers4": Run(layers=4, epochs=32, languages=KO_EN, per_epoch=True),
    "case1/layers6": Run(layers=6, epochs=32, languages=KO_EN, per_epoch=True),
    "case2/layers4": Run(layers=4, decay=1e-2, epochs=30, languages=KO_EN, per_epoch=True),
    "case2/layers6": Run(layers=6, decay=1e-2, epochs=30, languages=KO_EN, per_epoch=True),
    "case3/d768_layers3": Run(hidden=768, layers=3, decay=1e-3, epochs=8, languages=KO_EN),
    "case3/d512_layers6": Run(hidden=512, layers=6, decay=1e-3, epochs=8, languages=KO_EN),
    "case4/dynamic": Run(hidden=768, layers=3, decay=1e-3, epochs=16, languages=("ko",)),
    "case4/static": Run(
        hidden=768, layers=3, decay=1e-3, epochs=16, languages=("ko",), masking="static"
    ),
    "case5/decay1e-3": Run(hidden=768, layers=3, decay=1e-3, epochs=53),
    "case5/decay1e-4": Run(hidden=768, layers=3, decay=1e-4, epochs=53),
    "case6/layers2": Run(layers=2, decay=1e-4, **THIRTY),
    "case6/layers3": Run(layers=3, decay=1e-4, **THIRTY),
    "case6/layers6": Run(layers=6, decay=1e-4, **THIRTY),
    "case7/decay1e-4": "case6/layers3",
    "case7/decay1e-5": Run(layers=3, decay=1e-5, **THIRTY),
    "case7/decay1e-6": Run(layers=3, decay=1e-6, **THIRTY),
    "case8/merges30k": "case7/decay1e-5",
    "case8/merges20k": Run(layers=3, decay=1e-5, epochs=32, merges="20k"),
    "case8/merges10k": Run(layers=3, decay=1e-5, epochs=32, merges="10k"),
    "case9/lr5e-4_decay1e-5": "case8/merges10k",
    "case9/lr5e-3_decay1e-5": Run(lr=5e-3, decay=1e-5, **TEN),
    "case9/lr5e-4_decay1e-6": Run(lr=5e-4, decay=1e-6, **TEN),
    "case9/lr5e-5_decay1e-6": Run(lr=5e-5, decay=1e-6, **TEN),
    "case10/lr5e-4": Run(lr=5e-4, epochs=140, scheduler=EXPONENTIAL, **FIFTH),
    "case10/lr5e-5": Run(lr=5e-5, epochs=140, scheduler=EXPONENTIAL, **FIFTH),
    "case11/batch256_warmup_exponential": "case10/lr5e-4",
    "case11/batch256_cosine": Run(batch=256, epochs=155, scheduler=COSINE, **FIFTH),
    "case11/batch128_cosine": Run(batch=128, epochs=155, scheduler=COSINE, **FIFTH),
    "case11/batch64_cosine": Run(batch=64, epochs=155, scheduler=COSINE, **FIFTH),
}
EXTRA = {
    "case11/batch256_warmup_cosine": Run(epochs=155, scheduler=WARMUP_COSINE, **FIFTH),
}
RUNS = {name: run for name, run in (RECORD | EXTRA).items() if isinstance(run, Run)}


def read(name: str) -> Case:
    stem, arm = name.split("/")
    return read_case(CONFIGS / f"{stem}.json", arm)


def row_of(case: Case) -> Run:
    """The row of the table that a resolved case is."""
    block, params = case.bertds, case.deepspeed["optimizer"]["params"]
    merges = {one.name.split("/")[0] for one in block.data.train}
    fractions = {one.fraction for one in [*block.data.train, *block.data.valid.values()]}
    assert len(merges) == len(fractions) == 1
    assert block.run.num_epochs is not None
    return Run(
        layers=block.model.num_hidden_layers,
        hidden=block.model.hidden_size,
        lr=params["lr"],
        decay=params["weight_decay"],
        dropout=block.model.hidden_dropout_prob,
        batch=case.train_batch_size,
        languages=tuple(one.name.split("/")[1] for one in block.data.train),
        merges=merges.pop(),
        fraction=fractions.pop(),
        masking=block.masking.mode,
        scheduler=case.deepspeed.get("scheduler"),
        epochs=int(block.run.num_epochs),
        per_epoch=block.run.log_every == "1 epoch",
    )


def test_there_are_29_arms_25_distinct_runs_and_one_extra_arm():
    assert len(RECORD) == 29
    assert len({run if isinstance(run, str) else name for name, run in RECORD.items()}) == 25
    arms = [f"case{n}/{arm.name}" for n in range(1, 12) for arm in arms_of(f"case{n}.json")]
    assert arms == [*RECORD, *EXTRA]
    assert "batch256_warmup_cosine is an extra arm" in read("case11/batch256_cosine").bertds.title


def arms_of(file):
    return list_arms(CONFIGS / file)


@pytest.mark.parametrize("name", RECORD | EXTRA)
def test_an_arm_is_its_row_of_the_table(name):
    stem, arm = name.split("/")
    (listed,) = [each for each in arms_of(f"{stem}.json") if each.name == arm]
    expected = (RECORD | EXTRA)[name]
    assert listed.same_as == (expected if isinstance(expected, str) else name)
    if isinstance(expected, Run):
        assert row_of(read(name)) == expected


@pytest.mark.parametrize("name", RUNS)
def test_the_settings_common_to_all_arms(name):
    case = read(name)
    model, masking = case.bertds.model, case.bertds.masking
    assert case.deepspeed["optimizer"]["type"] == "Adam"
    params = case.deepspeed["optimizer"]["params"]
    assert params["adam_w_mode"] is False  # coupled L2
    assert (params["betas"], params["eps"]) == ([0.9, 0.999], 1e-8)
    assert case.deepspeed["gradient_clipping"] == 0
    assert case.precision == "bf16"
    # The fp32 weights and moments are sharded across ranks; with one rank it has no effect.
    assert case.deepspeed["zero_optimization"] == {"stage": 1}
    assert (model.preset, model.norm, model.positions) == ("bert-prenorm", "pre", "learned")
    assert (model.num_attention_heads, model.intermediate_size) == (8, 2048)
    assert (model.hidden_act, model.attention_probs_dropout_prob) == ("relu", 0)
    assert model.tie_word_embeddings
    assert model.vocab_size is None  # read from the index
    assert case.bertds.data.seq_len == model.max_position_embeddings == 256
    assert (masking.ratio, masking.mask_share, masking.random_share) == (0.15, 0.8, 0.1)
    assert masking.unit == "token"
    assert case.bertds.run.no_decay is None  # with coupled L2: all parameters decay
    assert case.bertds.run.max_micro_batch_size == 256
    assert case.bertds.run.max_steps is None


@pytest.mark.parametrize("name", RUNS)
def test_the_datasets_are_those_that_data_prep_writes(name):
    data, run = read(name).bertds.data, RUNS[name]
    assert [one.name for one in data.train] == [
        f"{run.merges}/{language}/train" for language in run.languages
    ]
    assert {key: one.name for key, one in data.valid.items()} == {
        language: f"{run.merges}/{language}/valid" for language in run.languages
    }


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_valid_and_complete(file):
    for arm in arms_of(file):
        case = read_case(arm.path, arm.run_arm)
        assert case.bertds.title
        assert case.bertds.data.valid
        text = json.loads((CONFIGS / file).read_text())
        assert {"title", "model", "data", "masking", "run"} <= text["bertds"].keys()
        assert {"seed", "log_every", "eval_every", "save_every"} <= text["bertds"]["run"].keys()
        assert {"optimizer", "gradient_clipping", "zero_optimization"} <= text.keys()


def test_there_are_14_cases_and_7_other_files():
    cases = {f"case{n}.json" for n in range(1, 15)}
    starting_points = {"sample.json", "bert_mini.json", "bert_base.json", "modernbert_base.json"}
    starting_points |= {"bert_two_phases.json", "modernbert_stages.json", "speedrun.json"}
    assert set(FILES) == cases | starting_points


@pytest.mark.parametrize("number", [12, 13, 14])
def test_cases_12_to_14_differ_only_in_what_they_compare(number):
    """They share one base, and validation has the same masks in every arm."""
    base = read("case12/prenorm").resolved
    for arm in arms_of(f"case{number}.json"):
        case = read_case(arm.path, arm.run_arm)
        differing = {
            key
            for block, other in ((case.resolved, base), (case.resolved["bertds"], base["bertds"]))
            for key in block
            if key != "bertds" and block[key] != other[key]
        }
        allowed = {12: {"model"}, 13: {"masking"}, 14: {"train_batch_size", "optimizer"}}[number]
        assert differing <= allowed | {"title"}
        assert case.bertds.masking.valid_ratio == 0.15


def test_the_learning_rates_of_case_14_grow_with_the_square_root_of_the_batch():
    for arm in ("batch64_lr2.5e-4", "batch256_lr5e-4", "batch1024_lr1e-3"):
        (listed,) = [each for each in arms_of("case14.json") if each.name == arm]
        case = read_case(listed.path, listed.run_arm)
        rate = case.deepspeed["optimizer"]["params"]["lr"]
        assert rate == pytest.approx(5e-4 * (case.train_batch_size / 256) ** 0.5)


def test_one_setting_switches_to_fp32():
    assert read_case(CONFIGS / "case3.json", "d768_layers3", "bf16=null").precision == "fp32"


def test_the_starting_points_use_deepspeeds_schedulers():
    def scheduler(file):
        return read_case(CONFIGS / file, "main").deepspeed["scheduler"]

    assert scheduler("sample.json")["type"] == "WarmupCosineLR"
    assert scheduler("bert_base.json")["type"] == "WarmupDecayLR"
    assert {scheduler(f)["params"]["warmup_type"] for f in ("sample.json", "bert_base.json")} == {
        "linear"
    }


def test_the_stages_of_the_shipped_files():
    """BERT's two phases, and ModernBERT's context extension and annealing."""

    def stages(file):
        return read_case(CONFIGS / file, "main").stages

    phases = stages("bert_two_phases.json")
    lengths = [(each.bertds.data.seq_len, each.bertds.run.max_steps) for each in phases]
    assert lengths == [(128, 900_000), (512, 100_000)]
    first, extended, annealed = stages("modernbert_stages.json")
    for stage, seq_len, base in ((first, 1024, 10_000), (extended, 8192, 160_000)):
        assert (stage.bertds.data.seq_len, stage.bertds.model.rope_theta) == (seq_len, base)
    assert annealed.bertds.model == extended.bertds.model
    assert annealed.bertds.data.train != extended.bertds.data.train
    assert annealed.deepspeed["scheduler"]["params"]["decay_num_steps"] == 10_600


def test_bert_base_has_the_sizes_of_bert_base():
    case = read_case(CONFIGS / "bert_base.json", "main")
    model = case.bertds.model
    sizes = (
        model.hidden_size,
        model.num_hidden_layers,
        model.num_attention_heads,
        model.intermediate_size,
    )
    assert sizes == (768, 12, 12, 3072)
    assert case.bertds.data.seq_len == model.max_position_embeddings == 512
    assert case.deepspeed["optimizer"]["type"] == "AdamW"
    assert case.precision == "bf16"
    assert case.deepspeed["zero_optimization"]["stage"] == 1


def test_modernbert_base_has_the_sizes_of_modernbert_base():
    model = read_case(CONFIGS / "modernbert_base.json", "main").bertds.model
    sizes = (
        model.hidden_size,
        model.num_hidden_layers,
        model.num_attention_heads,
        model.intermediate_size,
    )
    assert sizes == (768, 22, 12, 1152)
    assert (model.positions, model.feed_forward, model.bias) == ("rope", "glu", False)
    assert (model.local_attention, model.global_attn_every_n_layers) == (128, 3)


@pytest.mark.parametrize(("batch", "steps"), [(256, 1126), (128, 2253), (64, 4506)])
def test_the_learning_rate_of_case_11_over_155_epochs(batch, steps):
    """288,435 sentences (a fifth of the English data); cycles of 5, 10, 20, 40, 80 epochs."""
    assert 288_435 // batch == steps
    name = f"case11/batch{batch}_cosine"
    case = read(name)
    lengths = ScheduleLengths(steps, 155 * steps)
    factor = lr_lambda(Chosen.model_validate(case.deepspeed["scheduler"]), lengths, 5e-4)
    for epoch in (0, 5, 15, 35, 75):
        assert factor(epoch * steps) == 1
        if epoch:
            assert factor(epoch * steps - 1) * 5e-4 == pytest.approx(1e-5, rel=1e-3)
    assert factor(155 * steps - 1) == cosine_restarts(
        80 * steps - 1, first=80 * steps, multiplier=2, minimum=0.02
    )
    assert interval_steps(case.bertds.run.eval_every, steps) == steps


def test_the_learning_rate_of_case_10_over_140_epochs():
    case, steps = read("case10/lr5e-4"), 1126
    factor = lr_lambda(
        Chosen.model_validate(case.deepspeed["scheduler"]),
        ScheduleLengths(steps, 140 * steps),
        5e-4,
    )
    assert factor(0) == 1 / steps
    for epoch in (1, 2, 50, 139):
        assert factor(epoch * steps) == factor((epoch + 1) * steps - 1) == 0.96 ** (epoch - 1)
