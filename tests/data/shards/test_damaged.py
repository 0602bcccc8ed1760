"""`run.on_bad_shard: skip`: damage is logged, and every rank substitutes the same sequences."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bertds.config.schema import MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.shards.reader import ShardSet
from bertds.data.vocabulary import Vocabulary
from bertds.errors import ShardError
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of
from tests.helpers.packs import BATCH, content, loader_of

BAD_BLOCKS = (0, 3, 4, 9)


def missing(shard: Path) -> None:
    shard.unlink()


def truncated(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size - 700)


def damaged_blocks(shard: Path) -> None:
    """The size is right, so only reading finds the damage."""
    sizes = np.load(shard.parent / "blocks.npy")[1].tolist()
    with shard.open("r+b") as file:
        for block in BAD_BLOCKS:
            file.seek(sum(sizes[:block]))
            file.write(b"\xff" * 512)


def damage(data_root: Path, directory: Path, damage_shard: Callable[[Path], None]) -> Path:
    """Copy the sets `ko` and `en`, and damage one of the two shards of `ko`."""
    for name in ("ko", "en"):
        shutil.copytree(data_root / name, directory / name)
    damage_shard(directory / "ko" / "shard-000000.tar")
    return directory


@pytest.fixture(params=(missing, truncated, damaged_blocks))
def damaged(request: pytest.FixtureRequest, data_root: Path, tmp_path: Path) -> Path:
    """Sets with one damaged shard, for each kind of damage."""
    return damage(data_root, tmp_path, request.param)


def skipping_loader(root: Path, rank: int = 0, world_size: int = 1) -> TrainLoader:
    return loader_of(root, rank=rank, world_size=world_size, skips_bad=True)


def test_the_batches_are_the_same_for_two_ranks(damaged: Path, data_root: Path) -> None:
    """The number of steps and the order of intact sequences do not change."""
    intact, single = loader_of(data_root), skipping_loader(damaged)
    steps = intact.sampler.steps_per_epoch
    assert single.sampler.steps_per_epoch == steps
    ranks = [skipping_loader(damaged, rank, 2) for rank in range(2)]
    kept = 0
    for number in range(steps):
        batch = content(single.batch(number))
        assert batch.total() == BATCH
        assert sum((content(loader.batch(number)) for loader in ranks), Counter()) == batch
        kept += (batch & content(intact.batch(number))).total()
    assert BATCH * steps / 2 < kept < BATCH * steps


def test_the_damage_is_logged_once(damaged: Path, told: pytest.LogCaptureFixture) -> None:
    loader = skipping_loader(damaged)
    for number in range(2 * loader.sampler.steps_per_epoch):
        loader.batch(number)
    errors = [record.getMessage() for record in told.records if record.levelno == logging.ERROR]
    has_bad_blocks = "block 0 is damaged" in "".join(errors)
    assert len(errors) == (len(BAD_BLOCKS) if has_bad_blocks else 1)
    assert len(set(errors)) == len(errors)
    assert all("shard-000000.tar" in error for error in errors)
    assert all("replaced by others" in error for error in errors)


def test_a_substitute_is_used_only_within_the_fraction(data_root: Path, tmp_path: Path) -> None:
    """The substitute is the last block of the fraction, of which two sequences are used."""
    shards = ShardSet.open(damage(data_root, tmp_path, missing) / "ko", skips_bad=True)
    last = shards.blocks_of(1)[0]
    subset = DatasetSubset("ko", shards, shards.first_sequence(last) + 2, skips_bad=True)
    masking = MaskingConfig()
    dataset = MaskedDataset(subset, Vocabulary.of([subset]).masker(masking), masking)
    block = shards.read_block(last)
    expected = block.tokens[: int(block.lengths[:2].sum())].tolist()
    for number in shards.blocks_of(0):
        sequences = dataset.read(number, 0)
        assert sequences.lengths.size == shards.block_sequences[number]
        assert sequences.cut(0, 2).tokens.tolist() == expected
        assert set(sequences.tokens.tolist()) == set(expected)


def test_a_damaged_shard_is_an_error_by_default(damaged: Path) -> None:
    def read_all() -> None:
        shards = ShardSet.open(damaged / "ko")
        for block in range(shards.num_blocks):
            shards.read_block(block)

    with pytest.raises(ShardError, match=r"shard-000000\.tar"):
        read_all()


def test_a_set_without_an_intact_shard_is_an_error(damaged: Path) -> None:
    for shard in (damaged / "ko").glob("*.tar"):
        shard.unlink()
    with pytest.raises(ShardError, match=r"\.tar: it is missing"):
        ShardSet.open(damaged / "ko", skips_bad=True)


def test_a_run_with_a_damaged_shard_resumes_bit_exactly(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """A resumed run does not know the damage, and finds it by reading again."""
    root = damage(data_root, tmp_path / "data", damaged_blocks)
    skip = "run.on_bad_shard=skip,run.max_steps=6,data.valid={},scheduler=null"
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert train_here(root, straight, device, skip) == 0
    assert train_here(root, resumed, device, f"{skip},run.max_steps=3") == 0
    assert train_here(root, resumed, device, skip) == 0
    expected, found = (figures_of(each / "case" / "main") for each in (straight, resumed))
    assert [line["step"] for line in expected] == list(range(1, 7))
    assert found == expected
    with pytest.raises(ShardError, match=r"shard-000000\.tar"):
        train_here(root, tmp_path / "stop", device, "data.valid={}")
