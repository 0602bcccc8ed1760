"""Fixtures of several tests: the real corpus if there is one, a tokenizer, small real shard sets."""

import fcntl
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, settings
from tokenizers import decoders, models, pre_tokenizers, trainers

from bertds.data.masking import Masker, MaskRule, sequence_keys
from bertds.data.shards.format import Block, StoredMasking, id_dtype, length_dtype
from bertds.data.shards.reader import ShardSet
from bertds.data.shards.writer import SetFacts, shard_name, write_index, write_shard
from bertds.data.tokenizer import Tokenizer
from bertds.distributed.world import World
from tests.helpers import trained_runs

# Machines that run tests may be busy, so no example is too slow. The examples are the same in each
# run, so that only a change of the code breaks a test. `make test-slow` draws new ones.
PROFILE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **PROFILE)
settings.register_profile("new", max_examples=500, **PROFILE)
settings.load_profile(os.environ.get("BERTDS_HYPOTHESIS", "same"))


def pytest_configure(config: pytest.Config) -> None:
    """Tests use the CPU, also on a machine with GPUs, except those of `-m gpu`."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# The longest files. They run first, so that no test process is left with one at the end.
LONGEST = (
    "end_to_end/test_batch_invariance.py",
    "launch/test_train.py",
    "fake_cuda/test_step_waits.py",
    "fake_cuda/test_full_size.py",
    "engine/test_optimizer_state.py",
    "end_to_end/test_exact_resume.py",
    "distributed/test_launcher_guard.py",
    "training/test_host_check.py",
    "launch/test_kubernetes.py",
    "inference/test_export.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the longest files first."""
    order = {name: number for number, name in enumerate(LONGEST)}
    tests = Path(__file__).parent
    items.sort(key=lambda item: order.get(str(item.path.relative_to(tests)), len(LONGEST)))


_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "corpus"
CORPUS = Path(os.environ.get("BERTDS_CORPUS", _BESIDE))
"""The directory of the real corpus, if there is one."""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = {
    "en": ["ba", "co", "der", "fin", "go", "hal", "ith", "jun", "kel", "lo", "mar", "ness"],
    "ko": ["가", "나", "달", "래", "모", "빛", "소", "어", "지", "하", "는", "을"],
}


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The directory with {ko,en}.{train,valid}.txt.gz."""
    if not (CORPUS / "ko.train.txt.gz").is_file():
        pytest.skip("no corpus: point BERTDS_CORPUS at a directory with {ko,en}.train.txt.gz")
    return CORPUS


def make_lines(language: str, count: int) -> list[str]:
    """Distinct lines of 1 to 20 invented words, the same each time."""
    generator = random.Random(language)
    words = ["".join(generator.choices(SYLLABLES[language], k=1 + i % 4)) for i in range(150)]
    lengths = [1 + generator.randrange(20) for _ in range(count)]
    return [f"{i} " + " ".join(generator.choices(words, k=n)) for i, n in enumerate(lengths)]


@pytest.fixture(scope="session")
def lines() -> dict[str, list[str]]:
    """A few hundred lines of each language."""
    return {language: make_lines(language, 400) for language in SYLLABLES}


@pytest.fixture(scope="session")
def tokenizer(lines: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A BPE tokenizer of these lines that marks word starts."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator([*lines["ko"], *lines["en"]], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(path))
    return Tokenizer.load(path)


@pytest.fixture(scope="session")
def write_shards(tokenizer: Tokenizer) -> Callable[..., ShardSet]:
    """Writes sequences as a shard set of small blocks, pre-masked if a masking is given."""

    def write(
        directory: Path,
        rows: list[list[int]],
        *,
        set_key: int,
        block_sequences: Sequence[int],
        masking: StoredMasking | None = None,
        num_shards: int = 2,
        characters: int = 0,
        seq_len: int = 64,
    ) -> ShardSet:
        directory.mkdir(parents=True)
        facts = SetFacts(
            tokenizer=tokenizer,
            seq_len=seq_len,
            special_tokens=False,
            set_key=set_key,
            masking=masking,
            characters=characters,
        )
        blocks, start = [], 0
        while start < len(rows):
            size = block_sequences[len(blocks) % len(block_sequences)]
            blocks.append(_block(rows[start : start + size], start, facts))
            start += size
        part = -(-len(blocks) // num_shards)
        written = [
            write_shard(directory / shard_name(number), first, blocks[first : first + part])
            for number, first in enumerate(range(0, len(blocks), part))
        ]
        write_index(directory, written, facts)
        return ShardSet.open(directory)

    return write


def _block(rows: list[list[int]], first: int, facts: SetFacts) -> Block:
    tokens = np.concatenate([np.array(row, id_dtype(facts.tokenizer.vocab_size)) for row in rows])
    lengths = np.array([len(row) for row in rows], length_dtype(facts.seq_len))
    if facts.masking is None:
        return Block(tokens=tokens, lengths=lengths)
    stored = facts.masking
    masker = Masker(
        MaskRule.of(stored),
        vocab_size=facts.tokenizer.vocab_size,
        mask_id=facts.tokenizer.special_ids["mask"],
        unmaskable_ids=facts.tokenizer.unmaskable_ids,
        word_starts=facts.tokenizer.word_starts(),
    )
    ordinals = first + np.arange(len(rows))
    copies = [
        masker.mask(tokens, lengths, sequence_keys(stored.seed, facts.set_key, copy, ordinals))
        for copy in range(stored.copies)
    ]
    return Block(
        tokens=tokens,
        lengths=lengths,
        inputs=tuple(inputs for inputs, _ in copies),
        positions=tuple(positions.astype(np.uint32) for _, positions in copies),
    )


@pytest.fixture(scope="session")
def data_root(
    lines: dict[str, list[str]],
    tokenizer: Tokenizer,
    write_shards: Callable[..., ShardSet],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The datasets `ko` and `en` in two shards of small, uneven blocks, and `ko_masked`, which
    is `ko` with two pre-masked copies."""
    root = tmp_path_factory.mktemp("data")
    rows = {name: tokenizer.encode_batch(lines[name]) for name in ("ko", "en")}
    sizes = (7, 12, 3, 20)
    for name, set_key in (("ko", 11), ("en", 12)):
        characters = sum(map(len, lines[name]))
        write_shards(
            root / name,
            rows[name],
            set_key=set_key,
            block_sequences=sizes,
            characters=characters,
        )
    masking = StoredMasking(
        seed=5, ratio=0.15, mask_share=0.8, random_share=0.1, unit="token", copies=2
    )
    write_shards(root / "ko_masked", rows["ko"], set_key=11, block_sequences=sizes, masking=masking)
    return root


@pytest.fixture
def told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Captures the project's logger, which does not propagate to the root logger."""
    monkeypatch.setattr(logging.getLogger("bertds"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def device() -> Iterator[torch.device]:
    """The device, and a process group of one rank; DeepSpeed joins only one per process."""
    from bertds.engine import process_group

    yield process_group.init_process_group(World(), 60.0)
    process_group.destroy_process_group()


@pytest.fixture(scope="session")
def run_dirs(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs by name, trained by the real program: see `tests.helpers.trained_runs`.

    All processes that run tests share them; none may change anything there.
    """
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            trained_runs.train_all(data_root, directory)
            (directory / "done").touch()
    return trained_runs.run_dirs_in(directory)
