"""The sample corpus cannot be learned without context, and `make train`'s encoder uses it."""

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bertds.config.case import Case, read_case
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import PackedBatch, RankBatchSpec
from bertds.data.validation import masked_valid, valid_packs
from bertds.data.vocabulary import Vocabulary
from bertds.metrics.baselines import compute_baselines
from bertds.model.batch import DeviceBatch
from bertds.model.mlm import MaskedLanguageModel
from tests.helpers.launching import ROOT, environment, lines_of, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of `make train`, made by the same commands."""
    root = tmp_path_factory.mktemp("data")
    binaries = Path(sys.executable).parent
    target = ["make", "sample-data", f"DATA={root}", f"BIN={binaries}", "--assume-old=install"]
    subprocess.run(target, cwd=ROOT, check=True, env=environment())
    return root


def sets_of(case: Case, root: Path) -> tuple[DatasetSubset, MaskedDataset, Vocabulary]:
    train = DatasetSubset.open(root, "sample/train", 1.0)
    valid = DatasetSubset.open(root, "sample/valid", 1.0)
    vocabulary = Vocabulary.of([train, valid])
    return train, masked_valid(case.bertds.masking, valid, vocabulary), vocabulary


def test_the_encoder_beats_models_without_context(sample: Path, tmp_path: Path) -> None:
    """By ten points of accuracy on the same masks; all beat the unigram baseline."""
    path = ROOT / "ds_configs" / "sample.json"
    code, output = run(
        2, "--ds_config", str(path), "--data", str(sample), "--out", str(tmp_path), timeout=900
    )
    assert code == 0, output
    case = read_case(path, "main")
    train, valid, vocabulary = sets_of(case, sample)
    encoder = [x["acc/valid"] for x in lines_of(tmp_path / "sample" / "main") if "acc/valid" in x]
    accuracies = {
        "encoder": encoder[-1],
        "neighbours": neighbour_accuracy(train, valid),
        "itself": self_attending_accuracy(case, train, valid, vocabulary),
        "guess": compute_baselines({"valid": valid}, [train], vocabulary.size)["accuracy"],
    }
    print(accuracies)
    assert accuracies["encoder"] > accuracies["neighbours"] + 0.1
    assert accuracies["encoder"] > accuracies["itself"] + 0.1
    assert min(accuracies["neighbours"], accuracies["itself"]) > accuracies["guess"]


def neighbour_accuracy(train: DatasetSubset, valid: MaskedDataset) -> float:
    """Predict the most frequent token between two neighbours, with back-off to one and to none."""
    counts: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for block in range(train.shards.num_blocks):
        content = train.shards.read_block(block)
        for row in np.split(content.tokens.astype(int), np.cumsum(content.lengths)[:-1]):
            padded = [-1, *row.tolist(), -1]
            for left, token, right in zip(padded, padded[1:-1], padded[2:], strict=False):
                for context in ((left, right), (left, -2), (-2, right), (-2, -2)):
                    counts[context][token] += 1
    best = {context: counter.most_common(1)[0][0] for context, counter in counts.items()}
    right = total = 0
    for inputs, places, labels in masked_rows(valid):
        padded = [-1, *inputs, -1]
        for place, label in zip(places, labels, strict=True):
            left, following = padded[place], padded[place + 2]
            contexts = ((left, following), (left, -2), (-2, following), (-2, -2))
            guess = next(best[context] for context in contexts if context in best)
            right, total = right + (guess == label), total + 1
    return right / total


def masked_rows(valid: MaskedDataset) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Masked inputs, masked positions and labels of each validation sequence."""
    for block in range(valid.subset.shards.num_blocks):
        rows = valid.read(block, 0)
        for start, stop in zip(rows.ends[:-1], rows.ends[1:], strict=True):
            places = np.flatnonzero(rows.is_masked[start:stop])
            labels = rows.tokens[start:stop][places]
            yield rows.inputs[start:stop].tolist(), places.tolist(), labels.tolist()


def self_attending_accuracy(
    case: Case, train: DatasetSubset, valid: MaskedDataset, vocabulary: Vocabulary
) -> float:
    """The same encoder, data and steps, but every token is a segment of its own."""
    torch.manual_seed(0)
    block, batch = case.bertds, case.train_batch_size
    share = RankBatchSpec(
        rank=0, world_size=1, micro_batch_size=batch, row_length=block.data.seq_len, pad_id=0
    )
    masked = MaskedDataset(train, vocabulary.masker(block.masking), block.masking)
    loader = TrainLoader([masked], block.data, share, batch_size=batch, seed=0)
    model = MaskedLanguageModel(block.model, vocabulary.size, vocabulary.pad_id)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=case.deepspeed["optimizer"]["params"]["lr"]
    )
    assert block.run.max_steps is not None
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, block.run.max_steps)
    for packs in loader.batches(0, block.run.max_steps):
        loss, _ = model(alone(packs[0]))
        optimizer.zero_grad()
        (loss / packs[0].masked.size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        results = [(model(alone(p))[1].item(), p.masked.size) for p in valid_packs(valid, share)]
    return sum(r for r, _ in results) / sum(n for _, n in results)


def alone(pack: PackedBatch) -> DeviceBatch:
    """A packed batch whose tokens attend only to themselves."""
    size = pack.inputs.size
    arrays = [pack.inputs, pack.positions, np.arange(size), np.arange(size + 1, dtype=np.int32)]
    tensors = [torch.from_numpy(array) for array in [*arrays, pack.masked, pack.labels]]
    return DeviceBatch(*tensors, pack.rows, 1)
