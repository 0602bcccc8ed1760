"""Resource estimates against real runs: parameters, data, memory."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bertds import cli
from bertds.__main__ import COMMANDS
from bertds.config.case import Case, read_case
from bertds.config.schema import ModelConfig
from bertds.data.shards.reader import ShardSet
from bertds.distributed.world import World
from bertds.errors import ConfigError
from bertds.model import loss, mlm
from bertds.planner import memory as memory_module
from bertds.planner.corpus import Corpus, corpus_of
from bertds.planner.memory import MicroBatch, count_parameters, memory
from bertds.planner.plan import GPUS, communication, make_plan, table
from bertds.training.metric_logger import _flops_per_token
from bertds.training.setup import prepare_run
from tests.helpers.gloo import run
from tests.helpers.launching import ROOT, free_port
from tests.helpers.weights import count_parameters as parameters_of

SCHEDULE = 'scheduler={{"type":"{}","params":{{"warmup_epochs":{},"warmup_type":"linear"}}}}'
OPTIMIZER = {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.1}}
MODEL = {
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "intermediate_size": 1152,
    "max_position_embeddings": 96,
}
SHAPES: dict[str, dict[str, Any]] = {
    "bert-prenorm": {},
    "bert": {"preset": "bert"},
    "modernbert": {"preset": "modernbert"},
    "roberta": {"preset": "roberta"},
    "distilbert": {"preset": "distilbert"},
    "sinusoids, untied": {"positions": "sinusoidal", "tie_word_embeddings": False},
    "padded": {"pad_vocab_to_multiple_of": 64, "tie_word_embeddings": False},
    "no biases": {"bias": False, "feed_forward": "glu"},
}


def case_of(
    directory: Path, model: dict[str, Any], settings: str = "", **changes: Any
) -> tuple[Case, Path]:
    content: dict[str, Any] = {
        "train_batch_size": 16,
        "gradient_clipping": 0,
        "optimizer": OPTIMIZER,
        "bertds": {
            "model": {**MODEL, **model},
            "data": {"train": [{"name": "ko"}, {"name": "en"}], "seq_len": 96},
            "run": {"num_epochs": 2, "max_micro_batch_size": 4},
        },
        **changes,
    }
    path = directory / "case.json"
    path.write_text(json.dumps(content))
    return read_case(path, "main", settings), path


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_counted_as_in_the_model(shape: str) -> None:
    config = ModelConfig.model_validate({**MODEL, **SHAPES[shape]})
    with torch.device("meta"):
        model = mlm.MaskedLanguageModel(config, 5000, 3)
    assert count_parameters(config, 5000, pad_id=3) == parameters_of(model)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_and_averages_are_counted_as_they_are_kept(shape: str, tmp_path: Path) -> None:
    batch = MicroBatch(num_tokens=96, num_masked=15, row_length=0)
    with torch.device("meta"):
        model = mlm.MaskedLanguageModel(
            ModelConfig.model_validate({**MODEL, **SHAPES[shape]}), 5000, 0
        )
    size = parameters_of(model)
    matrices = sum(model.get_parameter(name).numel() for name in model.hidden_matrices())
    for kind, decay, numbers in (
        ("AdamW", None, 2 * size),
        ("Lion", None, size),
        ("Muon", None, 2 * size - matrices),
        ("Muon", 0.99, 3 * size - matrices),
    ):
        block = {"type": kind, "params": OPTIMIZER["params"]}
        settings = f"run.ema_decay={decay}" if decay else ""
        case, _ = case_of(tmp_path, SHAPES[shape], settings, optimizer=block)
        for stage, world_size in ((0, 2), (1, 1), (2, 2)):
            held = memory(case, stage, world_size, batch, vocab_size=5000).optimizer
            parts = world_size if stage else 1
            assert held == pytest.approx(4 * numbers / parts, abs=16)


# The estimate was not fitted to any of these.
MEASURED: dict[str, tuple[int, int, int, dict[str, Any], dict[str, Any]]] = {
    # ZeRO stage, processes, tokens, model, changes of the case
    "stage 0, activations": (0, 1, 2304, {"hidden_dropout_prob": 0.0}, {}),
    "stage 1, dropout": (1, 2, 1152, {}, {"train_batch_size": 8}),
    "stage 2, bf16, accumulation": (2, 2, 1536, {}, {"bf16": {"enabled": True}}),
    "stage 3, relu": (3, 2, 1152, {"hidden_act": "relu"}, {"train_batch_size": 8}),
    "stage 0, modernbert": (0, 1, 1536, {"preset": "modernbert"}, {}),
    "stage 1, activation checkpointing": (1, 2, 3072, {"gradient_checkpointing": True}, {}),
}
VOCAB_SIZE = 16_000


def measure(
    path: Path, vocab_size: int, num_tokens: int, world_size: int, scratch: Path
) -> tuple[int, int]:
    """Peak memory of a process in bytes, as a mean over the processes, and its parameters."""
    arguments = (path, vocab_size, num_tokens, num_tokens * 3 // 20)
    results = run(
        ROOT / "tests" / "helpers" / "workers" / "memory.py",
        world_size,
        *arguments,
        scratch=scratch,
    )
    return sum(result["peak"] for result in results) // world_size, results[0]["parameters"]


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("name", MEASURED)
def test_the_memory_estimate_is_close_to_the_measured_peak(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 15 % of the measured peak, less the peak of a tiny model."""
    stage, world_size, num_tokens, model, changes = MEASURED[name]
    zero = {"zero_optimization": {"stage": stage}, **changes}
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # freed memory is returned at once
    peaks = []
    tiny = {"hidden_size": 12, "num_hidden_layers": 1, "intermediate_size": 12}
    sizes = (({**model, **tiny}, 100, 96), (model, VOCAB_SIZE, num_tokens))
    for shape, vocab_size, tokens in sizes:
        case, path = case_of(tmp_path, shape, **zero)
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        peaks.append(measure(path, vocab_size, tokens, world_size, tmp_path)[0])
    micro_batch = MicroBatch(num_tokens=num_tokens, num_masked=num_tokens * 3 // 20, row_length=96)
    expected = memory(
        case,
        stage,
        world_size,
        micro_batch,
        vocab_size=VOCAB_SIZE,
        accumulation=case.train_batch_size // (4 * world_size),
        on_gpu=False,
    ).peak
    measured = peaks[1] - peaks[0]
    print(f"{name}: measured {measured:,}, expected {expected:,}, {expected / measured:.3f}")
    assert measured > 300e6  # a small leak makes no difference
    assert expected == pytest.approx(measured, rel=0.15)


def test_the_chunks_of_the_loss_are_those_of_the_model() -> None:
    assert memory_module._LOSS_CHUNK == loss._NUMBERS_ON_GPU


def test_the_bucket_is_the_model_unless_a_size_is_given(tmp_path: Path) -> None:
    """On a GPU, where it is allocated; a large micro-batch reaches its peak before it."""
    tiny = MicroBatch(num_tokens=96, num_masked=15, row_length=0)

    def peak(micro_batch: MicroBatch, **zero: Any) -> int:
        case, _ = case_of(tmp_path, {}, zero_optimization={"stage": 1, **zero})
        return memory(case, 1, 1, micro_batch, vocab_size=VOCAB_SIZE).peak

    case, _ = case_of(tmp_path, {})
    size = count_parameters(case.bertds.model, VOCAB_SIZE)
    assert peak(tiny) == peak(tiny, reduce_bucket_size=size)
    large = peak(tiny, reduce_bucket_size=5e8)
    assert large - peak(tiny, reduce_bucket_size=4e8) == 4e8  # fp32
    busy = MicroBatch(num_tokens=9600, num_masked=30_000, row_length=0)
    assert peak(busy) == peak(busy, reduce_bucket_size=2 * size)


def corpus(**changes: Any) -> Corpus:
    defaults = {"sequences": 160_000, "mean_length": 60.0, "vocab_size": 20_000, "source": "a test"}
    return Corpus(**{**defaults, "bytes_per_token": 2.1, **changes})


def of_shards(case: Case, data_root: Path) -> Corpus:
    return corpus_of(case, data_root, sequences=None, mean_length=None, vocab_size=None)


def test_the_length_of_the_run_is_read_from_the_shards(data_root: Path, tmp_path: Path) -> None:
    case, _ = case_of(tmp_path, {})
    found = of_shards(case, data_root)
    indexes = [ShardSet.open(data_root / name).index for name in ("ko", "en")]
    assert found.sequences == sum(index.sequences for index in indexes)
    assert found.mean_length * found.sequences == pytest.approx(
        sum(index.tokens for index in indexes)
    )
    plan = make_plan(case, found, 4, GPUS["h100"], 0.4)
    assert plan.steps == 2 * (found.sequences // 16)


def test_a_padded_vocabulary_may_be_stated_with_its_padding(
    data_root: Path, tmp_path: Path
) -> None:
    """As a start accepts it."""
    size = ShardSet.open(data_root / "ko").index.vocab_size
    for stated in (size, -(-size // 7) * 7):
        case, _ = case_of(tmp_path, {"pad_vocab_to_multiple_of": 7, "vocab_size": stated})
        assert of_shards(case, data_root).vocab_size == size
    case, _ = case_of(tmp_path, {"pad_vocab_to_multiple_of": 7, "vocab_size": size + 99})
    with pytest.raises(ConfigError, match="model.vocab_size is"):
        of_shards(case, data_root)


def test_reading_counts_only_the_gpus_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", str(ROOT / "ds_configs/bert_base.json"), "--gpus=1", "--vocab_size=30522"]
    reading = set()
    for hosts in (1, 8):
        assert cli.run("python -m bertds", COMMANDS, [*command, f"--gpus_per_node={hosts}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        reading |= {line for line in lines if line.startswith("reading")}
    assert len(reading) == 1
    assert reading.pop().endswith("GPUs per host: 1")


@example(fractions=(0.29, 0.0025), weight=1, batch=39, epochs=2.5, steps=None, lanes=False)
@given(
    fractions=st.tuples(*[st.integers(1, 400).map(lambda count: count / 400)] * 2),
    weight=st.integers(1, 3),
    batch=st.integers(1, 400),
    epochs=st.none() | st.floats(0.001, 9),
    steps=st.none() | st.integers(1, 50),
    lanes=st.booleans(),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_estimate_agrees_with_training(
    fractions: tuple[float, float],
    weight: int,
    batch: int,
    epochs: float | None,
    steps: int | None,
    lanes: bool,
    data_root: Path,
    tmp_path: Path,
) -> None:
    """The same steps, sequences, lanes and FLOPs per token, or the same error."""
    ko, en = (
        {"name": name, "fraction": f} for name, f in zip(("ko", "en"), fractions, strict=True)
    )
    data = {
        "train": [ko, {**en, "weight": weight}],
        "seq_len": 96,
        "lanes": batch if lanes else None,
    }
    run = {"num_epochs": epochs, "max_steps": steps or (9 if epochs is None else None)}
    case, _ = case_of(
        tmp_path, {}, train_batch_size=batch,
        bertds={"model": {**MODEL, "hidden_size": 12}, "data": data, "run": run},
    )  # fmt: skip
    try:
        training = prepare_run(case, data_root, tmp_path / "out", World())
    except ValueError as error:
        assert "fewer than one batch" in str(error)
        with pytest.raises(ConfigError, match="fewer than one batch"):
            make_plan(case, of_shards(case, data_root), 1, GPUS["h100"], 0.4)
        return
    plan = make_plan(case, of_shards(case, data_root), 1, GPUS["h100"], 0.4)
    order = training.loader.sampler
    assert plan.corpus.sequences == order.num_sequences
    assert (plan.steps, plan.lanes) == (training.lengths.num_steps, order.lanes)
    tokens_per_s = batch * plan.corpus.mean_length / plan.step_seconds
    assert tokens_per_s * _flops_per_token(training) == pytest.approx(0.4 * plan.gpu.peak)


def test_a_fraction_without_sequences_is_the_same_error_as_in_training(
    data_root: Path, tmp_path: Path
) -> None:
    settings = 'data.train=[{"name":"ko","fraction":0.001}],data.seq_len=96'
    case, _ = case_of(tmp_path, {}, settings)
    messages = set()
    for read in (of_shards, lambda *known: prepare_run(*known, tmp_path / "out", World())):
        with pytest.raises(ValueError, match="is none: raise it") as error:
            read(case, data_root)
        messages.add(str(error.value))
    assert len(messages) == 1


def test_without_shards_the_numbers_must_be_stated(tmp_path: Path) -> None:
    case, _ = case_of(tmp_path, {})
    with pytest.raises(ConfigError, match="--vocab_size"):
        corpus_of(case, tmp_path, sequences=None, mean_length=None, vocab_size=None)
    with pytest.raises(ConfigError, match="--sequences"):
        corpus_of(case, tmp_path, sequences=None, mean_length=None, vocab_size=9)
    both, _ = case_of(tmp_path, {}, "run.num_epochs=2,run.max_steps=100")
    with pytest.raises(ConfigError, match="--sequences"):  # the epochs may end first
        corpus_of(both, tmp_path, sequences=None, mean_length=None, vocab_size=9)
    for wrong in ({"sequences": 0, "mean_length": 30.0}, {"sequences": 9, "mean_length": -5.0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            corpus_of(case, tmp_path, vocab_size=9, **wrong)
    stated = corpus_of(case, tmp_path, sequences=320, mean_length=None, vocab_size=9)
    assert (stated.sequences, stated.mean_length) == (320, 96.0)


def test_a_number_that_is_stated_twice_is_compared(tmp_path, data_root):
    case, _ = case_of(tmp_path, {})
    none: dict[str, Any] = dict.fromkeys(("sequences", "mean_length", "vocab_size"))
    found = corpus_of(case, data_root, **none)
    for key in none:
        value = getattr(found, key)
        assert corpus_of(case, data_root, **{**none, key: value}) == found
        with pytest.raises(ConfigError, match=f"--{key} is {value + 1}, but the shards in .* have"):
            corpus_of(case, data_root, **{**none, key: value + 1})
    other, _ = case_of(tmp_path, {}, "model.vocab_size=9")
    with pytest.raises(ConfigError, match="model.vocab_size is 9, but the shards in"):
        corpus_of(other, data_root, **none)
    with pytest.raises(ConfigError, match="--vocab_size is 8, but model.vocab_size is 9"):
        corpus_of(other, tmp_path / "empty", **{**none, "vocab_size": 8})


def test_a_plan_holds_the_schedule_against_the_run(tmp_path, data_root):
    case, _ = case_of(tmp_path, {}, SCHEDULE.format("WarmupLR", 3))
    corpus = corpus_of(case, data_root, sequences=None, mean_length=None, vocab_size=None)
    with pytest.raises(ConfigError, match="the warm-up takes .* steps .*warmup_epochs 3"):
        make_plan(case, corpus, 1, GPUS["h100"], 0.4)
    case, _ = case_of(tmp_path, {}, SCHEDULE.format("WarmupLR", 2))
    plan = make_plan(case, corpus, 1, GPUS["h100"], 0.4)
    assert "\nwarning  the warm-up takes" in table(plan, 8)


def test_a_plan_counts_the_smaller_batches_of_a_warmup(tmp_path, data_root):
    """Steps, tokens and lanes are those of training, and time is in proportion to the tokens."""
    settings = 'run.batch_size_warmup={"from_size":4,"num_tokens":900},run.num_epochs=2'
    case, _ = case_of(tmp_path, {}, settings)
    training = prepare_run(case, data_root, tmp_path / "out", World())
    plan = make_plan(case, of_shards(case, data_root), 1, GPUS["h100"], 0.4)
    sequences = training.loader.plan.sequences(training.lengths.num_steps)
    assert training.lengths.num_steps > 2 * training.lengths.steps_per_epoch
    assert (plan.steps, plan.lanes) == (training.lengths.num_steps, training.loader.sampler.lanes)
    assert plan.tokens == sequences * plan.corpus.mean_length
    assert plan.hours == pytest.approx(sequences / 16 * plan.step_seconds / 3600)
    assert "of 16 sequences (4 to 12 sequences in the first" in table(plan, 8)


def test_more_gpus_need_less_memory_and_time(tmp_path: Path) -> None:
    case, _ = case_of(tmp_path, {}, train_batch_size=4096)
    few, many = (make_plan(case, corpus(), n, GPUS["h100"], 0.4) for n in (8, 512))
    for stage in (1, 2, 3):
        assert many.stages[stage].memory.optimizer < few.stages[stage].memory.optimizer
    assert many.hours == pytest.approx(few.hours / 64)
    kept = [s.memory.weights + s.memory.optimizer for s in many.stages]
    assert kept == sorted(kept, reverse=True)


def test_a_large_model_fits_only_where_it_is_partitioned(tmp_path: Path) -> None:
    large = {"hidden_size": 8192, "num_hidden_layers": 40, "intermediate_size": 32768}
    heads = {"num_attention_heads": 64}
    case, _ = case_of(tmp_path, {**large, **heads}, train_batch_size=512, bf16={"enabled": True})
    plan = make_plan(case, corpus(), 512, GPUS["h100"], 0.4)
    assert [stage.fits for stage in plan.stages][::3] == [False, True]


def test_the_micro_batch_is_the_largest_that_fits(tmp_path: Path) -> None:
    settings = "run.max_micro_batch_size=4096"
    case, _ = case_of(tmp_path, {}, settings, train_batch_size=65536, bf16={"enabled": True})
    split = make_plan(case, corpus(), 8, GPUS["l4"], 0.4).stages[1].split
    assert 1 < split.micro_batch_size < 4096
    assert split.micro_batch_size * split.accumulation * 8 == 65536


def test_the_communication_volume_of_the_stages(tmp_path: Path) -> None:
    """Multiples of the weights: 2 for an all-reduce, 3 per micro-batch in stage 3."""
    case, _ = case_of(tmp_path, {})
    once = 4 * count_parameters(case.bertds.model, 20_000) * 7 // 8
    sent = [communication(case, stage, 8, 3, 20_000) for stage in range(4)]
    assert sent == pytest.approx([2 * once, 2 * once, 4 * once, 9 * once], rel=1e-6)


def test_a_batch_size_that_the_gpus_do_not_divide_is_rejected(tmp_path: Path) -> None:
    case, _ = case_of(tmp_path, {})
    with pytest.raises(ConfigError, match="train_batch_size=24"):
        make_plan(case, corpus(), 12, GPUS["h100"], 0.4)


def test_every_gpu_has_a_known_peak() -> None:
    assert all(gpu.peak > 1e14 for gpu in GPUS.values())


def test_the_command_prints_all_stages_or_a_one_line_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["plan", str(ROOT / "ds_configs/bert_base.json"), "--gpus=512"]
    assert cli.run("python -m bertds", COMMANDS, [*command, "--vocab_size=30522"]) == 0
    printed = capsys.readouterr().out
    assert all(f"ZeRO {stage}" in printed for stage in range(4))
    assert "data.lanes=512" in printed
    assert cli.run("python -m bertds", COMMANDS, [*command, "--gpu=abacus"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_branch_makes_only_the_steps_after_its_trunk(tmp_path: Path) -> None:
    plans = [
        make_plan(case_of(tmp_path, {}, settings)[0], corpus(), 8, GPUS["h100"], 0.4)
        for settings in ("run.max_steps=100", "run.max_steps=100,run.branch_from=runs/a/main@90")
    ]
    assert [plan.steps for plan in plans] == [100, 10]
    assert plans[1].tokens == pytest.approx(0.1 * plans[0].tokens)
