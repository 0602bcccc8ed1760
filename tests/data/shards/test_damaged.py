"""`run.on_bad_shard: skip`: damage is named, and what stands in for it is the same everywhere."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bertds.config.schema import DataConfig, MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import RankBatchSpec
from bertds.data.shards.reader import ShardSet
from bertds.data.vocabulary import Vocabulary
from bertds.errors import ShardError
from tests.data.test_loader import content
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of

BATCH = 24


def missing(shard: Path) -> None:
    shard.unlink()


def truncated(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size - 700)


def header_gone(shard: Path) -> None:
    """The size is right, so that only reading finds it."""
    with shard.open("r+b") as file:
        file.write(b"\xff" * 512)


Damage = Callable[[Path], None]
DAMAGES = (missing, truncated, header_gone)


@pytest.fixture(params=DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
def damaged(request: pytest.FixtureRequest, data_root: Path, tmp_path: Path) -> Path:
    """The set `ko`, one of whose two shards is damaged, and a whole `en`."""
    for name in ("ko", "en"):
        shutil.copytree(data_root / name, tmp_path / name)
    request.param(tmp_path / "ko" / "shard-000000.tar")
    return tmp_path


def loader_of(root: Path, rank: int, world_size: int, fraction: float = 1.0) -> TrainLoader:
    parts = [
        DatasetSubset.open(root, "ko", fraction, skips_bad=True),
        DatasetSubset.open(root, "en", 0.7, skips_bad=True),
    ]
    masking = MaskingConfig()
    masker = Vocabulary.of(parts).masker(masking)
    share = RankBatchSpec(rank, world_size, BATCH // world_size, row_length=64, pad_id=0)
    config = DataConfig.model_validate({"train": [{"name": "ko"}, {"name": "en"}], "seq_len": 64})
    sets = [MaskedDataset(part, masker, masking) for part in parts]
    return TrainLoader(sets, config, share, batch_size=BATCH, seed=3)


def test_every_process_has_as_many_steps_and_the_batches_of_one(
    damaged: Path, data_root: Path
) -> None:
    """At any number of processes; what is whole still comes, and the order around it stays."""
    whole, alone = loader_of(data_root, 0, 1), loader_of(damaged, 0, 1)
    steps = whole.sampler.steps_per_epoch
    assert alone.sampler.steps_per_epoch == steps
    pairs = [loader_of(damaged, rank, 2) for rank in range(2)]
    kept = 0
    for number in range(steps):
        batch = content(alone.batch(number))
        assert batch.total() == BATCH
        assert sum((content(each.batch(number)) for each in pairs), Counter()) == batch
        kept += (batch & content(whole.batch(number))).total()
    assert BATCH * steps / 2 < kept < BATCH * steps


def test_the_damage_is_named_once(damaged: Path, told: pytest.LogCaptureFixture) -> None:
    loader = loader_of(damaged, 0, 1)
    for number in range(2 * loader.sampler.steps_per_epoch):
        loader.batch(number)
    said = [record.getMessage() for record in told.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert "shard-000000.tar" in said[0]
    assert "replaced by others" in said[0]


def test_nothing_from_outside_a_fraction_stands_in(damaged: Path, data_root: Path) -> None:
    """Its last block is used in part, and so it is when it stands in for another."""
    part = DatasetSubset.open(data_root, "ko", 0.73)
    allowed: Counter[tuple[int, ...]] = Counter()
    for block in range(part.num_blocks):
        read = part.shards.read_block(block)
        start = 0
        for number, length in enumerate(read.lengths.tolist()):
            if part.shards.first_sequence(block) + number < part.num_sequences:
                allowed[tuple(read.tokens[start : start + length].tolist())] += 1
            start += length
    loader = loader_of(damaged, 0, 1, fraction=0.73)
    masked_set = loader._entries[0][0]
    assert masked_set.subset.name == "ko"
    for block in range(part.num_blocks):
        rows = masked_set.read(block, 0)
        used = min(rows.lengths.size, part.num_sequences - part.shards.first_sequence(block))
        for number in range(used):
            assert tuple(rows.cut(number, number + 1).tokens.tolist()) in allowed


def test_stop_refuses_what_skip_replaces(damaged: Path) -> None:
    def read_all() -> None:
        shards = ShardSet.open(damaged / "ko")
        for block in range(shards.num_blocks):
            shards.read_block(block)

    with pytest.raises(ShardError, match=r"shard-000000\.tar"):
        read_all()


def test_a_set_without_a_whole_shard_is_refused(damaged: Path) -> None:
    for shard in (damaged / "ko").glob("*.tar"):
        shard.unlink()
    with pytest.raises(ShardError, match=r"\.tar: it is missing"):
        ShardSet.open(damaged / "ko", skips_bad=True)


def test_a_run_trains_on_and_is_the_same_after_a_stop(
    damaged: Path, tmp_path: Path, device: torch.device
) -> None:
    """As many steps as ever; started again in the middle, the figures are the same to the bit."""
    skip = "run.on_bad_shard=skip,run.eval_every=12,data.valid={},scheduler=null"
    runs = tmp_path / "straight", tmp_path / "stopped"
    assert train_here(damaged, runs[0], device, skip) == 0
    assert train_here(damaged, runs[1], device, f"{skip},run.max_steps=4") == 0
    assert train_here(damaged, runs[1], device, skip) == 0
    straight, stopped = (figures_of(each / "case" / "main") for each in runs)
    assert [line["step"] for line in straight] == list(range(1, 13))
    assert stopped == straight
    with pytest.raises(ShardError, match=r"shard-000000\.tar"):
        train_here(damaged, tmp_path / "stop", device, "data.valid={}")
