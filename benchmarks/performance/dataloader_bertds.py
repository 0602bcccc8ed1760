"""Worker: from shards to masked, packed sequences, by the data loader that training uses.

python -m benchmarks.performance.dataloader_bertds SHARDS ROW_LENGTH

ROW_LENGTH 0 concatenates all sequences of a batch (the varlen layout).
"""

import sys
from pathlib import Path

from benchmarks.common.harness import Stopwatch, Turn, serve
from bertds.config.schema import DataConfig, MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import RankBatchSpec
from bertds.data.vocabulary import Vocabulary

BATCH, SECONDS = 256, 2.0


def main() -> tuple[dict[str, str], Turn]:
    """Open the shards: one process, one micro-batch per step, dynamic masking."""
    directory, row_length = Path(sys.argv[1]), int(sys.argv[2])
    subset = DatasetSubset.open(directory.parent, directory.name, 1.0)
    vocabulary, masking = Vocabulary.of([subset]), MaskingConfig()
    spec = RankBatchSpec(0, 1, BATCH, row_length, vocabulary.pad_id)
    data = DataConfig.model_validate({"train": [{"name": subset.name}]})
    dataset = MaskedDataset(subset, vocabulary.masker(masking), masking)
    batches = TrainLoader([dataset], data, spec, batch_size=BATCH, seed=0).batches(0, 1 << 40)

    def run_turn() -> dict[str, float]:
        watch, tokens = Stopwatch(), 0
        while watch.seconds < SECONDS:
            with watch:
                tokens += sum(pack.num_tokens for pack in next(batches))
        return watch.answer(tokens)

    return {}, run_turn


if __name__ == "__main__":
    serve(main)
